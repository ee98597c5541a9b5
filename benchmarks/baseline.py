"""What one writes without much thought, and with the fast parts of `tokenizers` and numpy at hand: contestant (a)."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tokenizers import Tokenizer

BATCH = 1000


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    paths = sorted(Path(settings["corpus"]).iterdir())
    documents = sum(1 for _ in _lines(paths))
    held_out = round(settings["fraction"] * documents)
    texts = (json.loads(line)["text"] for line in _lines(paths))
    tokenizer = Tokenizer.from_file(str(Path(settings["tokenizer"]) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokens = 0
    for split, count in (("train", documents - held_out), ("eval", held_out)):
        path = Path(settings["target"]) / split / "examples_0_0.h5"
        tokens += _write(path, itertools.islice(texts, count), tokenizer, settings)
    print(json.dumps({"tokens": tokens}))


def _lines(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        with path.open(encoding="utf-8") as stream:
            yield from stream


def _write(path: Path, texts: Iterator[str], tokenizer: Tokenizer, settings: dict[str, Any]) -> int:
    path.parent.mkdir(parents=True)
    length, eos = settings["length"], tokenizer.token_to_id(settings["eos"])
    tokens, rest = 0, np.empty(0, dtype=np.int32)
    with h5py.File(path, "w") as file:
        shape = (3, length)
        data = file.create_dataset(
            "data", shape=(0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype="<i4", compression="gzip"
        )
        while batch := list(itertools.islice(texts, BATCH)):
            found = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            new = np.fromiter(itertools.chain.from_iterable([*one.ids, eos] for one in found), dtype=np.int32)
            tokens += len(new)
            rest = _append(data, np.concatenate([rest, new]), length)
        _append_last(data, rest, length, eos)
        file.attrs["n_examples"] = len(data)
    return tokens


def _append(data: h5py.Dataset, stream: np.ndarray, length: int) -> np.ndarray:
    """All full windows; what is left of the stream."""
    count = (len(stream) - 1) // length
    used = count * length
    rows = (stream[:used], np.ones(used, dtype=np.int32), stream[1 : used + 1])
    data.resize(len(data) + count, axis=0)
    data[len(data) - count :] = np.stack([row.reshape(count, length) for row in rows], axis=1)
    return stream[used:]


def _append_last(data: h5py.Dataset, rest: np.ndarray, length: int, eos: int) -> None:
    missing = length - (len(rest) - 1)
    if missing == length:
        return
    window = [np.pad(row, (0, missing), constant_values=fill) for row, fill in ((rest[:-1], eos), (rest[1:], eos))]
    mask = (np.arange(length) < length - missing).astype(np.int32)
    data.resize(len(data) + 1, axis=0)
    data[-1] = np.stack([window[0], mask, window[1]])


if __name__ == "__main__":
    main()
