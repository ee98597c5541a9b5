"""Memory of data preparation: the peak of each of its processes, for corpora of different sizes and shapes.

    python benchmarks/prepare_memory.py [--megabytes 100 300 1000] [--line 1000] [--tiny 10] [--tokenizer FOLDER]

English-like text is made up: words of syllables by Zipf's law, with numbers in between that come once and never again.
`--megabytes` are corpora of ordinary documents (JSON lines, 3 kB each), `--line` is one text file of so many megabytes
in one line (and a second, small file), `--tiny` are millions of documents of four words, each with an id. Each is
prepared by a process of its own with `--processes` hands; the peak is the kernel's (VmHWM), read while they run.

The trade-off: pages of mapped files count as memory here, although the kernel takes them back whenever it likes. Needs
three times the largest corpus of free disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regraft.specs.stages import PrepareTask
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources

EOS = "<|endoftext|>"
VOCABULARY = 32_000
WORDS = 50_000
WORDS_AT_ONCE = 200_000
DOCUMENT_WORDS, TINY_WORDS = 500, 4
MIB = 2**20
RAREST = 0.01  # share of the words that are numbers seen nowhere else


@dataclass(frozen=True, slots=True)
class Peaks:
    """Of one run; bytes."""

    seconds: float
    lead: int
    hands: list[int]


def main() -> None:
    arguments = _arguments()
    if arguments.run:
        _prepare(json.loads(arguments.run))
        return
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-", dir=arguments.work) as folder:
        work = Path(folder)
        tokenizer = arguments.tokenizer or _trained(work / "tokenizer")
        print("| corpus | seconds | lead, MiB | hands, MiB |\n|---|---|---|---|")
        for name, dataset in _corpora(arguments, work):
            settings = {"dataset": dataset, "tokenizer_uri": str(tokenizer), "output_uri": str(work / "out")}
            peaks = _measured({**settings, "processes": arguments.processes})
            hands = ", ".join(f"{peak / MIB:.0f}" for peak in peaks.hands)
            print(f"| {name} | {peaks.seconds:.0f} | {peaks.lead / MIB:.0f} | {hands} |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the memory of data preparation.")
    parser.add_argument("--megabytes", type=int, nargs="*", default=[100, 300, 1000], help="sizes of ordinary corpora")
    parser.add_argument("--line", type=int, nargs="*", default=[1000], help="megabytes of a text that is one line")
    parser.add_argument("--tiny", type=int, nargs="*", default=[1, 10], help="millions of documents of four words")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json; without: one is trained")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


def _corpora(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each is deleted when the next one is asked for."""
    corpus = work / "corpus"
    for megabytes in arguments.megabytes:
        _write(corpus, _documents(DOCUMENT_WORDS, seed=1), limit=megabytes * 10**6)
        yield f"documents, {megabytes} MB", {"source": "jsonl", "uri": str(corpus)}
    for megabytes in arguments.line:
        _write_line(corpus, limit=megabytes * 10**6)
        yield f"one line, {megabytes} MB", {"source": "text", "uri": str(corpus)}
    for millions in arguments.tiny:
        _write(corpus, _documents(TINY_WORDS, seed=2), limit=millions * 10**6, counted=True)
        yield f"{millions} million tiny", {"source": "jsonl", "uri": str(corpus), "reading": {"id_key": "id"}}


def _words(seed: int) -> Iterator[list[str]]:
    """Many words at a time, for ever."""
    random = np.random.default_rng(seed)
    syllables = [first + second for first in "bcdfghjklmnprstvw" for second in ("a", "e", "i", "o", "u", "an", "er")]
    known = np.array(["".join(random.choice(syllables, size)) for size in random.integers(1, 5, WORDS)], dtype=object)
    weights = np.cumsum(1 / np.arange(1, WORDS + 1))
    while True:
        words = known[np.searchsorted(weights, random.random(WORDS_AT_ONCE) * weights[-1])]
        rare = np.flatnonzero(random.random(WORDS_AT_ONCE) < RAREST)
        words[rare] = [str(number) for number in random.integers(10**6, 10**12, len(rare))]
        yield words.tolist()


def _documents(size: int, *, seed: int) -> Iterator[bytes]:
    """Lines of JSON."""
    number = 0
    for words in _words(seed):
        for start in range(0, len(words), size):
            number += 1
            yield b'{"id": "document %d", "text": "%s"}\n' % (number, " ".join(words[start : start + size]).encode())


def _write(folder: Path, lines: Iterator[bytes], *, limit: int, counted: bool = False) -> None:
    """Files of lines, up to `limit` bytes, or lines."""
    _empty(folder)
    done = number = 0
    while done < limit:
        with (folder / f"{number:03d}.jsonl").open("wb") as file:
            while done < limit and file.tell() < 200 * 10**6:
                line = next(lines)
                file.write(line)
                done += 1 if counted else len(line)
        number += 1


def _write_line(folder: Path, *, limit: int) -> None:
    _empty(folder)
    (folder / "b.txt").write_text("a second document, to hold out")
    with (folder / "a.txt").open("w") as file:
        for words in _words(3):
            file.write(" ".join(words) + " ")
            if file.tell() >= limit:
                return


def _empty(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def _trained(folder: Path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    texts = (" ".join(words) for _, words in zip(range(20), _words(0), strict=False))
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _prepare(settings: dict[str, Any]) -> None:
    processes = settings.pop("processes")
    prepare(PrepareTask.model_validate(settings), resources=Resources(processes=processes))


def _measured(settings: dict[str, Any]) -> Peaks:
    """A run in a process of its own."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, __file__, "--run", json.dumps(settings)])
    peaks: dict[int, int] = {}
    while process.poll() is None:
        origins = _children(process.pid)
        for pid in (process.pid, *origins, *(hand for origin in origins for hand in _children(origin))):
            peaks[pid] = _peak(pid) or peaks.get(pid, 0)  # the last one: before its exec a child has its parent's
        time.sleep(0.02)
    assert process.returncode == 0, "the run failed"
    lead = peaks.pop(process.pid)
    hands = sorted(peaks.values())  # and what they are forked from, which has less
    return Peaks(time.monotonic() - started, lead, hands)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
