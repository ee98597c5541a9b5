"""`create-hdf5`: documents to HDF5 files whose arrays equal those of the original tool.

The inputs are cut into contiguous blocks, one for each process, which packs and writes on its own and then reads its
files again. What the original loses is lost here, too, and counted: the carry at each process's end, and, without
`write_remainder`, the last file that is not full. A resumed run gives the arrays of an undisturbed one.

The trade-off: equal arrays depend on the number of processes, as in the original. Where they need not be equal,
`regraft prepare` loses nothing and depends on nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import ftfy

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError, RegraftError
from regraft_dataprep.reference.documents import list_inputs, read_documents
from regraft_dataprep.reference.options import GEN_A, GEN_B, Options, dump
from regraft_dataprep.reference.packing import ReferencePacker, Rules
from regraft_dataprep.reference.progress import Checkpoint
from regraft_dataprep.reference.tokenizer import ReferenceTokenizer, load
from regraft_dataprep.reference.writer import RecordWriter, verify

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 500_000  # tokenised at a time
_LEFTOVERS = ("checkpoint_*.txt", "resume_*.jsonl", "data_params.json", ".*.part")
_NOT_IN_ARRAYS = {"resume_from_checkpoint", "overwrite", "display_pbar", "write_in_batch", "output_dir"}
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_STATISTICS = ("detokenized_bytes", "detokenized_chars", "loss_valid_tokens", "non_pad_tokens")


class ProcessDiedError(RegraftError):
    """A child process ended without an answer."""

    reason = "process_died"


@dataclass(frozen=True, slots=True)
class Result:
    """`params` is what `data_params.json` holds; the rest is what the original does not say."""

    params: dict[str, Any]
    examples: int
    dropped_examples: int
    """Of files that were not full, without `write_remainder`."""
    dropped_tokens: int
    """Tokens in no example: each process's last carry, rests below `min_sequence_len`, cuts of `short_seq_prob`."""


@dataclass(frozen=True, slots=True)
class _Block:
    """One process's share."""

    options: Options
    process: int
    inputs: list[Path]
    single: bool

    def fingerprint(self) -> str:
        content = self.options.model_dump(mode="json", exclude=_NOT_IN_ARRAYS)
        inputs = [(str(path), path.stat().st_size) for path in self.inputs]
        return hashlib.sha256(json.dumps([content, self.process, inputs]).encode()).hexdigest()


def create_hdf5(options: Options) -> Result:
    """Run, verify, and write `data_params.json`.

    Raises:
        RegraftError: an option, an input, a tokenizer or the output folder is not as it should be.
    """
    tokenizer = load(options)
    inputs = list_inputs(input_dir=options.input_dir, metadata_files=options.metadata_files)
    blocks = _blocks(options, inputs=inputs)
    folder = _claim_folder(options)
    totals = sum(_run(blocks), Counter())
    if not totals["num_sequences"]:
        raise InvalidDataError(
            f"{totals['documents']} documents with {totals['dropped_tokens']} tokens give no example",
            field="max_seq_length",
            value=options.max_seq_length,
            remedy="The last tokens of each process are dropped: take fewer processes, more text, or shorter examples."
            if not totals["dropped_examples"]
            else "Files that are not full are dropped: pass --write_remainder.",
        )
    params = _params(options, totals=totals, processes=len(blocks), tokenizer=tokenizer)
    _write_json(folder / "data_params.json", content=params)
    return Result(params, totals["num_sequences"], totals["dropped_examples"], totals["dropped_tokens"])


def _blocks(options: Options, *, inputs: Sequence[Path]) -> list[_Block]:
    processes = min(options.processes or os.cpu_count() or 1, len(inputs))
    size = math.ceil(len(inputs) / processes)
    shares = [list(inputs[start : start + size]) for start in range(0, len(inputs), size)]
    return [_Block(options, number, share, len(shares) == 1) for number, share in enumerate(shares)]


def _claim_folder(options: Options) -> Path:
    folder = Path(options.output_dir)
    if options.overwrite and options.resume_from_checkpoint:
        raise InvalidInputError("cannot go with --resume_from_checkpoint", field="overwrite")
    existing = sorted(folder.glob("*.h5"))
    on_record = options.resume_from_checkpoint and any(folder.glob("resume_*.jsonl"))
    if existing and not (options.overwrite or on_record):
        raise ConflictError(
            f"the folder holds {len(existing)} .h5 files" + (" without a record" * options.resume_from_checkpoint),
            field="output_dir",
            value=str(folder),
            remedy="Name another folder, or pass --overwrite to delete them, or --resume_from_checkpoint to go on "
            "with an unfinished run of this command.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume_from_checkpoint:
        for path in [*existing, *chain.from_iterable(folder.glob(pattern) for pattern in _LEFTOVERS)]:
            path.unlink()
    return folder


def _run(blocks: Sequence[_Block]) -> list[Counter[str]]:
    if len(blocks) == 1:
        return [_run_block(blocks[0])]
    # Not fork: threads of the tokenizer and open HDF5 files do not survive one.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(len(blocks), mp_context=context) as pool:
            return list(pool.map(_run_block, blocks))
    except BrokenProcessPool as error:
        raise ProcessDiedError(
            "a process ended without an answer, perhaps killed for want of memory",
            field="processes",
            value=len(blocks),
            remedy="Free memory or take fewer processes; --resume_from_checkpoint goes on with the same number.",
        ) from error


def _run_block(block: _Block) -> Counter[str]:
    if not block.single:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # of this child: the processes share the cores already
        threading.Thread(target=_end_with_parent, daemon=True).start()
    return _Process(block).run()


def _end_with_parent() -> None:
    # An orphan would go on writing where a resumed run writes by then.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Process:
    """Reads, packs, writes and verifies one block."""

    def __init__(self, block: _Block) -> None:
        options, self.options, self.block = block.options, block.options, block
        self.tokenizer = load(options)
        self.packer = ReferencePacker(_rules(options, self.tokenizer), seed=options.seed + block.process)
        folder = Path(options.output_dir)
        self.checkpoint = Checkpoint(folder, process=block.process, fingerprint=block.fingerprint())
        self.writer = RecordWriter(
            folder,
            name=options.output_name,
            process=block.process,
            capacity=options.files_per_record,
            length=options.max_seq_length,
            first_file=0,
        )
        self.totals: Counter[str] = Counter()
        self.skip = 0
        """Windows of the next document that are in finished files already."""

    def run(self) -> Counter[str]:
        """All of it; the totals."""
        if self.options.resume_from_checkpoint:
            self._resume()
        for text, ids in self._documents():
            self._add(text, ids)
        self._end()
        paths = [self.writer.path(number) for number in range(self.writer.files)]
        counts = [self._verify(path) for path in paths]
        own = Counter({"dropped_tokens": self.packer.dropped + len(self.packer.carry)})
        return sum(counts, self.totals + own)

    def _documents(self) -> Iterator[tuple[str, list[int]]]:
        texts = chain.from_iterable(
            read_documents(path, jsonl_key=self.options.jsonl_key) for path in self.block.inputs
        )
        for batch in _batches(islice(texts, self.totals["documents"], None)):
            fixed = [self._fixed(text) for text in batch]
            yield from zip(batch, self.tokenizer.encode(fixed), strict=True)

    def _fixed(self, text: str) -> str:
        if self.options.use_ftfy:
            return ftfy.fix_text(text, normalization=self.options.ftfy_normalizer)
        if _HALF_PAIR.search(text):
            raise InvalidDataError("half a surrogate pair is no text", field="input", remedy="ftfy replaces those.")
        return text

    def _add(self, text: str, ids: list[int]) -> None:
        before = self._state()
        block = self.packer.add(ids)
        start, self.skip = self.skip, 0
        while start < len(block):
            start += self.writer.append(block[start:])
            if self.writer.full:
                self._finish_file({**before, "skip": start}, documents=before["totals"].get("documents", 0))
        size = len(text.encode("utf-8", "surrogatepass"))
        self.totals.update({"documents": 1, "raw_chars": len(text), "raw_bytes": size})
        self.totals["discarded"] += not (len(block) or self.options.pack_sequences)

    def _end(self) -> None:
        if self.writer.in_file and self.options.write_remainder:
            self.writer.finish()
        self.totals["dropped_examples"] += self.writer.discard()
        if self.writer.files:
            self.checkpoint.save(self._state(), documents=self.totals["documents"], files=self.writer.files)

    def _finish_file(self, state: dict[str, Any], *, documents: int) -> None:
        self.writer.finish()
        self.checkpoint.save(state, documents=documents, files=self.writer.files)
        if self.options.display_pbar:
            sys.stderr.write(f"process {self.block.process}: {documents:,} documents, {self.writer.files} files\n")

    def _state(self) -> dict[str, Any]:
        return {**self.packer.state(), "skip": 0, "totals": dict(self.totals)}

    def _resume(self) -> None:
        paths = [self.writer.path(number) for number in range(self.checkpoint.known_files())]
        state = self.checkpoint.load(paths)
        if state is not None:
            self.packer.restore(state)
            self.writer.files, self.skip, self.totals = state["files"], state["skip"], Counter(state["totals"])

    def _verify(self, path: Path) -> Counter[str]:
        length = self.options.max_seq_length
        return verify(path, tokenizer=self.tokenizer, length=length, decode=self.options.mode == GEN_B)


def _rules(options: Options, tokenizer: ReferenceTokenizer) -> Rules:
    return Rules(
        max_seq_length=options.max_seq_length,
        pad_id=tokenizer.pad_id,
        keep_m_tokens=options.mode == GEN_A,
        pack=options.pack_sequences,
        min_sequence_len=options.min_sequence_len,
        short_seq_prob=options.short_seq_prob,
        inverted_mask=options.inverted_mask,
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _params(options: Options, *, totals: Counter[str], processes: int, tokenizer: ReferenceTokenizer) -> dict[str, Any]:
    content = dump(options.model_copy(update={"processes": processes}))
    counts = {
        "discarded_files": totals["discarded"],
        "processed_files": totals["documents"],
        "successful_files": totals["documents"] - totals["discarded"],
        "n_examples": totals["num_sequences"],
    }
    if options.mode == GEN_A:
        return content | counts
    ids = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id, "vocab_size": tokenizer.vocab_size}
    raw = {"raw_chars_count": totals["raw_chars"], "raw_bytes_count": totals["raw_bytes"]}
    statistics = {name: totals[name] for name in (*_STATISTICS, "num_sequences", "num_tokens")}
    return content | {"post-process": counts | ids | raw, "h5_dataset_stats": statistics}


def _write_json(path: Path, *, content: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")
    part.replace(path)
