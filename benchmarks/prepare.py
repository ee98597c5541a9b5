"""Data preparation against what else does it: wall time, CPU time, memory, and where Regraft's own time goes.

    python benchmarks/prepare.py --corpus FOLDER [--megabytes 100] [--tokenizer FOLDER] [--datatrove] [--runs 3]

`FOLDER` has .jsonl files with a `text` per line (single files may be named too). The contestants run one after the
other, each a process of its own from its start to its end, imports and its children's work included:

    (a) a script of the kind that people write: `json`, `tokenizers` in batches on all cores, h5py's gzip
    (b) datatrove's JsonlReader and DocumentTokenizer with a worker for each core, with `--datatrove`, which makes an
        environment for it in the temporary folder and needs a package index
    Regraft on the work of (a), whose arrays must be equal to those of (a), and of as many tokens as those of (b)
    Regraft with its defaults: text is mended, duplicates are dropped, near duplicates kept on one side of the split
    the last one again, on one core, with a clock around its parts

Without `--tokenizer`, a byte-level BPE of GPT-2's size is trained on a slice of the corpus, and kept in the temporary
folder.

The trade-off: the corpus is in the page cache for everybody, so disks are not measured. Times of one run on a shared
machine vary by a fifth; ratios less. Memory is what all processes of a contestant hold at a time, shared pages counted
once (PSS), looked at ten times a second. Others' CPU is what the rest of the machine used meanwhile: much of it means a
disturbed run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measured
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regraft.hdf5 import Dataset

EOS = "<|endoftext|>"
VOCABULARY = 50_257
TRAINING_BYTES = 30_000_000
FRACTION = 0.1
FILES = 8
BATCH = 1000
SPLITS = ("train", "eval")
DATATROVE = "0.10.1"

TITLES = {
    "baseline": "(a) `json`, `tokenizers` in batches, h5py gzip",
    "datatrove": f"(b) datatrove {DATATROVE}: JsonlReader, DocumentTokenizer",
    "regraft": "Regraft, the work of (a), to the published dataset",
    "defaults": "Regraft, defaults: cleaning, duplicates, overlap",
    "profile": "the same on one core, with a clock",
}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-", dir=arguments.work) as folder:
        work = Path(folder)
        size = _cut(_files(arguments.corpus), work / "corpus", limit=round(arguments.megabytes * 1e6))
        tokenizer = arguments.tokenizer or _trained(work / "corpus")
        settings = {
            "corpus": str(work / "corpus"),
            "tokenizer": str(tokenizer.absolute()),
            "length": arguments.length,
            "fraction": FRACTION,
            "eos": EOS,
            "workers": len(os.sched_getaffinity(0)),
        }
        programs = dict.fromkeys(TITLES, Path(sys.executable))
        if arguments.datatrove:
            programs["datatrove"] = _environment()
        else:
            del programs["datatrove"]
        if size > sum(file.stat().st_size for file in _files(arguments.corpus)):
            # The corpus is there several times, and near duplicates of it would all move to the train split.
            del programs["defaults"], programs["profile"]
        print(_introduction(size), flush=True)
        runs = [_round(programs, work / f"run-{number}", settings) for number in range(arguments.runs)]
        fastest = {name: min((run[name] for run in runs), key=lambda result: result["wall"]) for name in programs}
        print(_tables(fastest, size=size))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure data preparation.")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="folders of .jsonl files, or such files")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of text; more than there is: again and again")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json")
    parser.add_argument("--length", type=int, default=2048, help="tokens per window")
    parser.add_argument("--datatrove", action="store_true", help="measure datatrove too; installs it apart")
    parser.add_argument("--runs", type=int, default=1, help="of which the fastest counts, for each contestant")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    return parser.parse_args()


def _files(places: list[Path]) -> list[Path]:
    return [file for place in places for file in (sorted(place.glob("*.jsonl")) if place.is_dir() else [place])]


def _cut(files: list[Path], target: Path, *, limit: int) -> int:
    """Copy documents up to `limit` bytes of text into some files of one size; the bytes of text."""
    target.mkdir()
    texts = _texts(files)
    size = 0
    for number in range(FILES):
        with (target / f"part-{number}.jsonl").open("wb") as out:
            while size < limit * (number + 1) // FILES and (text := next(texts, None)) is not None:
                if text:
                    out.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
                    size += len(text.encode())
    return size


def _texts(files: list[Path]) -> Iterator[str]:
    """Those of the corpus; then the same again with another beginning, for as long as anybody asks."""
    for copy in itertools.count():
        for file in files:
            with file.open("rb") as lines:
                for line in lines:
                    if line.strip():
                        yield f"Copy {copy}. " * bool(copy) + json.loads(line)["text"]


def _trained(corpus: Path) -> Path:
    """A folder with a tokenizer for this corpus, of an earlier run if there was one."""
    content = b"".join(path.read_bytes() for path in sorted(corpus.iterdir()))[:TRAINING_BYTES]
    lines = content.split(b"\n")[:-1]
    folder = Path(tempfile.gettempdir()) / f"regraft-benchmark-tokenizer-{hashlib.sha256(content).hexdigest()[:16]}"
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


def _environment() -> Path:
    """The interpreter of an environment with datatrove and the versions of what it shares with this one."""
    folder = Path(tempfile.gettempdir()) / f"regraft-benchmark-datatrove-{DATATROVE}"
    program, done = folder / "bin" / "python", folder / "done"
    if not done.is_file():
        venv.create(folder, with_pip=True, clear=True)
        shared = [f"{name}=={importlib.metadata.version(name)}" for name in ("tokenizers", "orjson", "numpy")]
        command = [program, "-m", "pip", "install", "--quiet", f"datatrove=={DATATROVE}", *shared]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return program


def _round(programs: dict[str, Path], work: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All contestants, one after the other."""
    work.mkdir()
    results = {name: _run(name, program, work, settings) for name, program in programs.items()}
    _check_equal(results, work)
    shutil.rmtree(work)
    return results


def _run(name: str, program: Path, work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    script = {"baseline": "baseline", "datatrove": "with_datatrove"}.get(name, "with_regraft")
    path = work / f"{name}.json"
    path.write_text(json.dumps({**settings, "name": name, "target": str(work / name)}))
    return measured.run([str(program), str(Path(__file__).parent / f"{script}.py"), str(path)])


def _check_equal(results: dict[str, dict[str, Any]], work: Path) -> None:
    for split in SPLITS:
        digests = {_digest(work / name / split) for name in ("baseline", "regraft")}
        assert len(digests) == 1, f"the arrays of {split} differ"
    counts = {name: result["tokens"] for name, result in results.items() if name not in ("defaults", "profile")}
    assert len(set(counts.values())) == 1, f"numbers of tokens differ: {counts}"


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    with Dataset(folder) as dataset:
        for start in range(0, len(dataset), BATCH):
            digest.update(dataset.rows(range(start, min(start + BATCH, len(dataset)))).tobytes())
    return digest.hexdigest()


def _introduction(size: int) -> str:
    return (
        f"{size / 1e6:.1f} MB of text in {FILES} files; {len(os.sched_getaffinity(0))} cores, {_processor()}, load "
        f"{os.getloadavg()[0]:.2f} at the start; Python {platform.python_version()}."
    )


def _tables(results: dict[str, dict[str, Any]], *, size: int) -> str:
    titles = ("wall s", "CPU s", "others' CPU s", "MB/s", "tokens/s", "peak MB", "times (a)", "times (b)")
    lines = ["", f"| | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    lines += [_row(name, results, size=size) for name in results]
    if "profile" not in results:
        return "\n".join(lines)
    lines += ["\n| part of the time on one core | s | share |", "|---|---|---|"]
    parts = results["profile"]["parts"]
    wall = sum(parts.values())
    lines += [f"| {name} | {seconds:.2f} | {seconds / wall:.0%} |" for name, seconds in parts.items()]
    return "\n".join(lines)


def _row(name: str, results: dict[str, dict[str, Any]], *, size: int) -> str:
    result = results[name]
    wall = result["wall"]
    rivals = [results.get(rival) for rival in ("baseline", "datatrove")]
    ratios = " | ".join(f"{rival['wall'] / wall:.1f}" if rival else "" for rival in rivals)
    speed = f"{size / 1e6 / wall:.1f} | {result['tokens'] / wall:,.0f}"
    seconds = f"{wall:.1f} | {result['cpu']:.1f} | {result['others']:.1f}"
    return f"| {TITLES[name]} | {seconds} | {speed} | {result['peak'] / 1e6:.0f} | {ratios} |"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
