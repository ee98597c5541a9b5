"""Data preparation against a straightforward script: the same documents, the same arrays, wall time and memory.

    python benchmarks/prepare.py --corpus FOLDER [--megabytes 100] [--tokenizer FOLDER]

`FOLDER` has .jsonl files with a `text` per line (single files may be named too). Each contestant is a process of its
own, one after the other: `regraft_dataprep.pipeline.prepare` up to the published dataset; a script of the kind that
people write, with `json`, `tokenizers` in batches on all cores, and h5py's gzip; and Regraft once more with a clock
around its parts. The arrays of both must be equal. Without `--tokenizer`, a byte-level BPE of GPT-2's size is trained
on a slice of the corpus, and kept in the temporary folder.

The trade-off: the corpus is in the page cache for everybody, so disks are not measured. Times of one run on a shared
machine vary by a fifth; ratios less.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regraft import hdf5_chunks
from regraft.hdf5 import Dataset
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep import encoders, output, pipeline
from regraft_dataprep.pack import Packer
from regraft_dataprep.split import chronological_split

EOS = "<|endoftext|>"
VOCABULARY = 50_257
TRAINING_BYTES = 30_000_000
FRACTION = 0.1
BATCH = 1000
SPLITS = ("train", "eval")
BESIDE = "beside the second pass: "


def main() -> None:
    arguments = _arguments()
    if arguments.run:
        _child(arguments.run, arguments.work)
        return
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-", dir=arguments.work) as folder:
        work = Path(folder)
        size = _cut(_files(arguments.corpus), work / "corpus.jsonl", limit=round(arguments.megabytes * 1e6))
        tokenizer = arguments.tokenizer or _trained(work / "corpus.jsonl")
        settings = {"tokenizer": str(tokenizer.absolute()), "length": arguments.length, "bytes": size}
        (work / "settings.json").write_text(json.dumps(settings))
        results = {name: _run(name, work) for name in ("baseline", "regraft", "profile")}
        for split in SPLITS:
            digests = {_digest(work / name / split) for name in ("baseline", "regraft")}
            assert len(digests) == 1, f"the arrays of {split} differ"
        print(_tables(results, size=size))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure data preparation.")
    parser.add_argument("--corpus", type=Path, nargs="+", help="folders of .jsonl files, or such files")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of text, from the start of the corpus")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json")
    parser.add_argument("--length", type=int, default=2048, help="tokens per window")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--run", choices=("baseline", "regraft", "profile"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.corpus and not arguments.run:
        parser.error("--corpus is needed")
    return arguments


def _files(places: list[Path]) -> list[Path]:
    return [file for place in places for file in (sorted(place.glob("*.jsonl")) if place.is_dir() else [place])]


def _cut(files: list[Path], target: Path, *, limit: int) -> int:
    """Copy documents up to `limit` bytes of text; the bytes of text."""
    size = 0
    with target.open("wb") as out:
        for line in _lines(files):
            out.write(json.dumps({"text": (text := json.loads(line)["text"])}, ensure_ascii=False).encode() + b"\n")
            size += len(text.encode())
            if size >= limit:
                break
    return size


def _lines(files: list[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as stream:
            yield from (line for line in stream if line.strip())


def _trained(corpus: Path) -> Path:
    """A folder with a tokenizer for this corpus, of an earlier run if there was one."""
    with corpus.open("rb") as file:
        lines = file.read(TRAINING_BYTES).split(b"\n")[:-1]
    name = hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"regraft-benchmark-tokenizer-{name}"
    if not (folder / "tokenizer_config.json").is_file():
        folder.mkdir(exist_ok=True)
        _train(json.loads(line)["text"] for line in lines).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}))
    return folder


def _train(texts: Iterator[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _run(name: str, work: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", name, "--work", str(work)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def _child(name: str, work: Path) -> None:
    settings = json.loads((work / "settings.json").read_text())
    parts: Counter[str] = Counter()
    clock = Clock(parts)
    if name == "profile":
        clock.watch_regraft()
    started = time.perf_counter()
    cpu = time.process_time()
    tokens = (_baseline if name == "baseline" else _regraft)(work, settings, work / name)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    clock.stop()
    result = {"wall": wall, "cpu": cpu, "tokens": tokens, "rss": _peak_rss(), "parts": dict(parts.most_common())}
    print(json.dumps(result))


def _peak_rss() -> int:
    """Of this process image; `getrusage` would count its parent's memory from before `exec`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _regraft(work: Path, settings: dict[str, Any], target: Path) -> int:
    spec = DatasetSpec.model_validate(
        {
            "source": "jsonl",
            "uri": str(work / "corpus.jsonl"),
            "cleaning": (),  # the baseline takes every text as it is
            "max_sequence_length": settings["length"],
            "validation": {"fraction": FRACTION},
        }
    )
    task = PrepareTask(
        dataset=spec, tokenizer_uri=settings["tokenizer"], vocab_size=None, output_uri=str(work / f"out-{target.name}")
    )
    result = pipeline.prepare(task)
    target.symlink_to(local_path(result.uri))
    return int(result.train_tokens + result.eval_tokens) + 2  # the first token of a split is no label


def _baseline(work: Path, settings: dict[str, Any], target: Path) -> int:
    """What one writes without much thought, and with the fast parts of `tokenizers` and numpy at hand."""
    tokenizer = Tokenizer.from_file(str(Path(settings["tokenizer"]) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    with (work / "corpus.jsonl").open(encoding="utf-8") as stream:
        documents = sum(1 for _ in stream)
    order = np.arange(documents)
    evaluated = chronological_split(np.zeros(documents, "datetime64[s]"), ids=order, fraction=FRACTION)
    tokens = 0
    with (work / "corpus.jsonl").open(encoding="utf-8") as stream:
        for split, count in zip(SPLITS, (int((~evaluated).sum()), int(evaluated.sum())), strict=True):
            packer = Packer(settings["length"], tokenizer.token_to_id(EOS))
            texts = (json.loads(line)["text"] for line in itertools.islice(stream, count))
            _baseline_split(tokenizer, texts, packer, target / split / "examples_0_0.h5")
            tokens += packer.tokens
    return tokens


def _baseline_split(tokenizer: Tokenizer, texts: Iterator[str], packer: Packer, path: Path) -> None:
    path.parent.mkdir(parents=True)
    shape = (3, packer.max_sequence_length)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data", shape=(0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype="<i4", compression="gzip"
        )
        for block in _baseline_blocks(tokenizer, texts, packer):
            data.resize(len(data) + len(block), axis=0)
            data[len(data) - len(block) :] = block
        file.attrs["n_examples"] = len(data)


def _baseline_blocks(tokenizer: Tokenizer, texts: Iterator[str], packer: Packer) -> Iterator[np.ndarray]:
    while batch := list(itertools.islice(texts, BATCH)):
        yield packer.add([found.ids for found in tokenizer.encode_batch_fast(batch, add_special_tokens=False)])
    yield packer.finish()


class Clock(threading.local):
    """Seconds of each part, without those of the parts inside it; each thread has a stack of its own."""

    def __init__(self, seconds: Counter[str]) -> None:
        self._seconds = seconds
        self._beside = threading.current_thread() is not threading.main_thread()
        self._stack = ["waiting" if self._beside else "everything else"]
        self._since = time.perf_counter()

    def watch_regraft(self) -> None:
        """Put the clock around the functions that do the work."""
        self._watch(pipeline, "_scan", "first pass: reading, JSON, sha256")
        self._watch(pipeline, "_batches", "second pass: reading, JSON, cleaning", generator=True)
        self._watch(pipeline._Preparation, "_encoded_batches", "waiting for BPE", generator=True)
        self._watch(encoders.GigatokenEncoder, "encode", "BPE by gigatoken")
        self._watch(encoders.ReferenceEncoder, "encode", "BPE of the sample by tokenizers")
        self._watch(Packer, "add", "packing")
        self._watch(hdf5_chunks, "deflated", "shuffle and deflate", generator=True)
        self._watch(output.ShardWriter, "write", "writing HDF5")
        self._watch(output, "validate_shard", "verifying: reading, inflate, values")
        self._watch(sys.modules["regraft.storage.publish"], "_seal", "publishing: sha256, fsync")

    def stop(self) -> None:
        """Count what the main thread is at."""
        self._switch()

    def _watch(self, owner: Any, name: str, part: str, *, generator: bool = False) -> None:
        inner = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._timed(part, inner, *args, **kwargs)

        def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = inner(*args, **kwargs)
            while (item := self._timed(part, next, items, None)) is not None:
                yield item

        setattr(owner, name, iterate if generator else call)

    def _timed(self, part: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._switch()
        self._stack.append(part)
        try:
            return function(*args, **kwargs)
        finally:
            self._switch()
            self._stack.pop()

    def _switch(self) -> None:
        now = time.perf_counter()
        self._seconds[BESIDE + self._stack[-1] if self._beside else self._stack[-1]] += now - self._since
        self._since = now


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    with Dataset(folder) as dataset:
        for start in range(0, len(dataset), BATCH):
            digest.update(dataset.rows(range(start, min(start + BATCH, len(dataset)))).tobytes())
    return digest.hexdigest()


def _tables(results: dict[str, dict[str, Any]], *, size: int) -> str:
    ours, other = results["regraft"], results["baseline"]
    lines = [
        f"{size / 1e6:.1f} MB of text, {ours['tokens']:,} tokens; {os.cpu_count()} cores, {_processor()}; "
        f"Python {platform.python_version()}. The arrays are equal.",
        "\n| | wall s | CPU s | MB/s | tokens/s | peak RSS MB | times (a) |\n|---|---|---|---|---|---|---|",
        _row("(a) json, tokenizers in batches, h5py gzip", other, size=size, against=other),
        _row("Regraft, to the published dataset", ours, size=size, against=other),
        "\n| part of Regraft's time | s | share |\n|---|---|---|",
    ]
    parts = results["profile"]["parts"]
    parts.pop(f"{BESIDE}waiting", None)
    wall = sum(seconds for name, seconds in parts.items() if not name.startswith(BESIDE))
    lines += [f"| {name} | {seconds:.2f} | {seconds / wall:.0%} |" for name, seconds in parts.items()]
    return "\n".join(lines)


def _row(name: str, result: dict[str, Any], *, size: int, against: dict[str, Any]) -> str:
    wall = result["wall"]
    speed = f"{size / 1e6 / wall:.1f} | {result['tokens'] / wall:,.0f}"
    used = f"{wall:.1f} | {result['cpu']:.1f}"
    return f"| {name} | {used} | {speed} | {result['rss'] / 1e6:.0f} | {against['wall'] / wall:.1f} |"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
