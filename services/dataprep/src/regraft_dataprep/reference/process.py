"""One process's share of `create-hdf5`: reads its inputs in order, packs, writes, and reads its own files again.

A document goes through ftfy, WikiText's rules, the tokenizer and the packer, as far as the options ask for them. Every
finished file is a point that a resumed run can go on from, with the arrays of an undisturbed one. Memory: a batch of
documents and a few hundred windows.

The trade-off: a resumed run reads the documents before that point again, though it does not tokenise them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import ftfy

from regraft.errors import InvalidDataError
from regraft_dataprep.reference.documents import read_documents
from regraft_dataprep.reference.options import GEN_A, GEN_B, Options
from regraft_dataprep.reference.packing import ReferencePacker, Rules
from regraft_dataprep.reference.progress import Checkpoint
from regraft_dataprep.reference.tokenizer import ReferenceTokenizer, load
from regraft_dataprep.reference.wikitext import detokenise
from regraft_dataprep.reference.writer import RecordWriter, verify

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 500_000  # tokenised at a time
_NOT_IN_ARRAYS = {"resume_from_checkpoint", "overwrite", "display_pbar", "write_in_batch", "output_dir"}
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_REPORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Block:
    """One process's share."""

    options: Options
    process: int
    inputs: list[Path]
    single: bool
    """There is no other, so it runs in the caller's process."""

    def fingerprint(self) -> str:
        """Differs where a resumed run's arrays would."""
        content = self.options.model_dump(mode="json", exclude=_NOT_IN_ARRAYS)
        inputs = [(str(path), path.stat().st_size) for path in self.inputs]
        return hashlib.sha256(json.dumps([content, self.process, inputs]).encode()).hexdigest()


def run_block(block: Block) -> Counter[str]:
    """All of one process's work; its totals.

    Raises:
        RegraftError: an input or the record of the unfinished run is not as it should be.
    """
    if not block.single:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # of this child: the processes share the cores already
        threading.Thread(target=_end_with_parent, daemon=True).start()
    return _Process(block).run()


def _end_with_parent() -> None:
    # An orphan would go on writing where a resumed run writes by then.
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Process:
    """Reads, packs, writes and verifies one block."""

    def __init__(self, block: Block) -> None:
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
        self.reported = time.monotonic()
        self.skip = 0
        """Windows of the next document that are in finished files already."""

    def run(self) -> Counter[str]:
        """All of it; the totals."""
        if self.options.resume_from_checkpoint:
            self._resume()
        else:
            self.checkpoint.begin(self._state())
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
            self._report()

    def _fixed(self, text: str) -> str:
        if self.options.use_ftfy:
            text = ftfy.fix_text(text, normalization=self.options.ftfy_normalizer)
        elif _HALF_PAIR.search(text):
            raise InvalidDataError("half a surrogate pair is no text", field="input", remedy="ftfy replaces those.")
        return detokenise(text) if self.options.wikitext_detokenize else text

    def _report(self, *, last: bool = False) -> None:
        if self.options.display_pbar and (last or time.monotonic() >= self.reported + _REPORT_SECONDS):
            self.reported = time.monotonic()
            done = f"{self.totals['documents']:,} documents, {self.writer.files} files"
            sys.stderr.write(f"process {self.block.process}: {done}\n")

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
        self._report(last=True)

    def _finish_file(self, state: dict[str, Any], *, documents: int) -> None:
        self.writer.finish()
        self.checkpoint.save(state, documents=documents, files=self.writer.files)

    def _state(self) -> dict[str, Any]:
        return {**self.packer.state(), "skip": 0, "totals": dict(self.totals)}

    def _resume(self) -> None:
        state = self.checkpoint.load(self.writer.path)
        if state is None:
            self.checkpoint.begin(self._state())
            return
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
