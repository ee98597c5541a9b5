"""Corpus to dataset: scan, split, clean, tokenise, pack, write, verify, publish.

Two passes over the corpus with memory for one batch of documents (plus about 30 bytes per story for the split). The
trade-off: one process does it all; the tokenizer and the compression inside use every core, reading uses one. Not for
building datasets out of several corpora.

The dataset's name is a hash of everything that determines its bytes, so asking again for the same costs a scan.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.ports import NullProgress, Progress
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareResult, PrepareTask
from regraft.storage import Draft, is_published, local_path, publish, read_manifest, to_uri
from regraft_dataprep.clean import CLEANING_VERSION
from regraft_dataprep.cleaning import CLEANING_STEPS_VERSION, Cleaner, name_of
from regraft_dataprep.document import Document
from regraft_dataprep.encoders import DatasetEncoder, DifferentIdsError, Ids, open_encoder, reference_encoder
from regraft_dataprep.limits import check_limits, limits_of
from regraft_dataprep.output import SplitTotals, SplitWriter
from regraft_dataprep.report import FORMAT_VERSION, corpus_report, data_params, write_json
from regraft_dataprep.report_page import report_page
from regraft_dataprep.sources import open_source
from regraft_dataprep.sources.base import Scan, Source
from regraft_dataprep.split import chronological_split
from regraft_dataprep.tokenize import TextEncoder, load_tokenizer

TRAIN, EVAL = "train", "eval"
_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 4 * 2**20
_SECONDS_BETWEEN_REPORTS = 0.5

Batch = list[tuple[Document, bool]]
"""Documents, each with True when it is held out."""


def prepare(task: PrepareTask, progress: Progress | None = None) -> PrepareResult:
    """Prepare a dataset, or find it prepared.

    Raises:
        InvalidInputError: source, tokenizer, lengths or paths cannot be what was asked for.
        InvalidDataError: the corpus is malformed, empty or too small, or the written files do not verify.
        InterruptedStageError: `progress.should_stop()` said so; nothing is left behind.
    """
    progress = progress or NullProgress()
    encoder = _checked_encoder(task)
    source = open_source(task.dataset.source, uri=task.dataset.uris, reading=task.dataset.reading)
    scan = _scan(source, progress)
    address = content_address(task.dataset, source_sha256=scan.sha256, tokenizer_digest=encoder.digest)
    folder = local_path(task.output_uri, field="output_uri") / address
    if is_published(folder):
        progress.event("this dataset exists already", data={"address": address})
        return _announced(_result(folder, cached=True), progress)
    held_out = _held_out(scan, fraction=task.dataset.validation.fraction)
    with publish(folder, kind="dataset") as draft:
        _Preparation(task, source, scan, held_out, encoder, progress).write(draft)
    return _announced(_result(folder, cached=False), progress)


def content_address(spec: DatasetSpec, *, source_sha256: str, tokenizer_digest: str) -> str:
    """The name of the dataset: 32 hex digits over everything that determines its bytes, and nothing else."""
    parts = {
        "format_version": FORMAT_VERSION,
        "cleaning_version": CLEANING_VERSION,
        "steps_version": CLEANING_STEPS_VERSION,
        "source": spec.source,
        "source_sha256": source_sha256,
        "tokenizer_digest": tokenizer_digest,
        **spec.model_dump(mode="json", include={"max_sequence_length", "validation", "examples_per_file", "cleaning"}),
        # Without defaults: an option that is new leaves the names of older datasets as they are.
        **spec.reading.model_dump(mode="json", exclude={"max_bad_records"}, exclude_defaults=True),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class _Preparation:
    """One dataset in the making."""

    def __init__(
        self,
        task: PrepareTask,
        source: Source,
        scan: Scan,
        held_out: npt.NDArray[np.bool_],
        encoder: TextEncoder,
        progress: Progress,
    ) -> None:
        self.task = task
        self.spec = task.dataset
        self.source = source
        self.scan = scan
        self.held_out = held_out
        self.encoder = encoder
        self.progress = progress
        self.document_encoder = reference_encoder(encoder)
        self.cleaner = Cleaner(())
        self.read = 0
        """Documents taken from the source so far."""
        self.splits: dict[str, SplitWriter] = {}

    def write(self, draft: Draft) -> None:
        """Fill the draft's folder and describe it."""
        totals = self._write_splits(draft.folder)
        self.source.check_unchanged()
        self._describe(draft.folder, totals)
        draft.parents = {"corpus": self.scan.sha256, "tokenizer": self.encoder.digest}
        draft.made_by = self.task.model_dump(mode="json")
        draft.summary = {
            "documents": sum(split.documents for split in totals.values()),
            "max_sequence_length": self.spec.max_sequence_length,
            "max_token_id": self.encoder.vocab_size - 1,
            **{f"{name}_examples": split.examples for name, split in totals.items()},
            **{f"{name}_tokens": split.loss_tokens for name, split in totals.items()},
        }

    def _write_splits(self, folder: Path) -> dict[str, SplitTotals]:
        try:
            return self._write_all(folder, open_encoder(self.encoder, self.progress))
        except DifferentIdsError as error:  # what is written may be wrong too, outside of the sample
            message = f"{error}; the dataset is made again from its start, by tokenizers alone"
            self.progress.event(message, level="warn", data={"position": error.position})
        for name in (TRAIN, EVAL):
            shutil.rmtree(folder / name)
        return self._write_all(folder, reference_encoder(self.encoder))

    def _write_all(self, folder: Path, document_encoder: DatasetEncoder) -> dict[str, SplitTotals]:
        self.document_encoder, self.cleaner, self.read = document_encoder, Cleaner(self.spec.cleaning), 0
        with ExitStack() as stack:
            for name in (TRAIN, EVAL):
                self.splits[name] = stack.enter_context(self._open_split(folder / name))
            self._write_documents()
            self._check_filled()
            self.progress.event("all documents are written; reading the files back")
            return {name: split.finish(vocab_size=self.encoder.vocab_size) for name, split in self.splits.items()}

    def _open_split(self, folder: Path) -> SplitWriter:
        return SplitWriter(
            folder,
            max_sequence_length=self.spec.max_sequence_length,
            eos_id=self.encoder.eos_id,
            examples_per_file=self.spec.examples_per_file,
        )

    def _write_documents(self) -> None:
        total = int(self.scan.has_text.sum())
        started = reported = time.monotonic()
        done = 0
        for batch, ids, done in self._encoded_batches():
            _stop_if_asked(self.progress)
            self._write_batch(batch, ids)
            now = time.monotonic()
            if done >= total or now - reported >= _SECONDS_BETWEEN_REPORTS:
                self._report(done, total=total, seconds=now - started)
                reported = now
        if done < self.read:  # the last documents were dropped
            self._report(self.read, total=total, seconds=time.monotonic() - started)

    def _documents(self) -> Iterator[tuple[Document, bool]]:
        """Documents that have text after cleaning, in the order of the corpus; True: held out."""
        for document, later in zip(self.source.documents(), self.held_out, strict=False):  # see check_unchanged
            if document.text:
                self.read += 1
                cleaned = self.cleaner.clean(document)
                if cleaned is not None:
                    yield cleaned, bool(later)

    def _check_filled(self) -> None:
        for name, split in self.splits.items():
            if not split.tokens:
                raise InvalidDataError(
                    f"cleaning has left no document for the {name} split",
                    field="dataset.cleaning",
                    value=[name_of(step) for step in self.spec.cleaning],
                    remedy="Clean less, or hold out another share of the documents.",
                    reason="corpus_empty",
                )

    def _encoded_batches(self) -> Iterator[tuple[Batch, list[Ids], int]]:
        """Batches with their ids, and how many documents were read up to them.

        While one is encoded, which leaves the interpreter free, the next one is read.

        Nothing is read on while a batch is written: see `regraft.hdf5_chunks`, which would be slowed down by more.
        """
        batches = _batches(self._documents())
        batch, read = next(batches, None), self.read
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
            while batch:
                ids = pool.submit(self.document_encoder.encode, [document for document, _ in batch])
                following = next(batches, None), self.read
                yield batch, ids.result(), read
                batch, read = following

    def _write_batch(self, batch: Batch, ids: list[Ids]) -> None:
        for name, split in self.splits.items():
            chosen = [number for number, (_, held_out) in enumerate(batch) if held_out == (name == EVAL)]
            if chosen:
                split.add([batch[number][0] for number in chosen], [ids[number] for number in chosen])

    def _report(self, done: int, *, total: int, seconds: float) -> None:
        metrics = {f"{name}_examples": float(split.examples) for name, split in self.splits.items()}
        metrics["documents_per_second"] = done / max(seconds, 1e-9)
        self.progress.step(done, metrics, total=total, tokens=sum(split.tokens for split in self.splits.values()))

    def _describe(self, folder: Path, totals: dict[str, SplitTotals]) -> None:
        for name, split in totals.items():
            content = data_params(name, totals=split, spec=self.spec, scan=self.scan, encoder=self.encoder)
            write_json(folder / name / "data_params.json", content)
        counts = self.cleaner.counts()
        report = corpus_report(totals=totals, spec=self.spec, scan=self.scan, held_out=self.held_out, cleaning=counts)
        write_json(folder / "corpus_report.json", report)
        (folder / "corpus_report.html").write_text(report_page(report), encoding="utf-8")
        self.progress.event("the corpus is prepared", data={name: asdict(split) for name, split in totals.items()})


def _checked_encoder(task: PrepareTask) -> TextEncoder:
    """The tokenizer, once it and the windows are known to suit the model: before hours of work, not after."""
    encoder = load_tokenizer(task.tokenizer_uri)
    check_limits(limits_of(task), encoder=encoder, max_sequence_length=task.dataset.max_sequence_length)
    return encoder


def _scan(source: Source, progress: Progress) -> Scan:
    _stop_if_asked(progress)
    scan = source.scan()
    source.check_unchanged()
    empty = int((~scan.has_text).sum())
    facts: dict[str, object] = {"documents": scan.stories, "bytes": scan.bytes, "empty": empty, "sha256": scan.sha256}
    progress.event("the corpus is scanned", data=facts)
    if scan.stray_lines:
        message = f"{scan.stray_lines} lines outside of any document are ignored"
        progress.event(message, level="warn", data={"lines": scan.stray_lines})
    if scan.bad.total:
        examples = [str(record) for record in scan.bad.first]
        message = f"{scan.bad.total} records cannot be read and are left out"
        progress.event(message, level="warn", data={"records": scan.bad.total, "first": examples})
    _stop_if_asked(progress)
    return scan


def _held_out(scan: Scan, *, fraction: float) -> npt.NDArray[np.bool_]:
    """By position in the corpus; documents without text are on neither side and False here."""
    with_text = np.flatnonzero(scan.has_text)
    mask = np.zeros(scan.stories, dtype=np.bool_)
    moments = scan.timestamps[with_text].astype(np.int64)  # undated (NaT) is the smallest: first, by position
    mask[with_text] = chronological_split(moments, ids=scan.ids[with_text], fraction=fraction)
    return mask


def _batches(documents: Iterator[tuple[Document, bool]]) -> Iterator[Batch]:
    """Documents in their order, limited in number and in characters."""
    batch: Batch = []
    characters = 0
    for document, later in documents:
        batch.append((document, later))
        characters += len(document.text)
        if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _result(folder: Path, *, cached: bool) -> PrepareResult:
    manifest = read_manifest(folder)
    facts: dict[str, Any] = dict(manifest.summary) if manifest else {}
    try:
        return PrepareResult(uri=to_uri(folder), address=folder.name, cached=cached, **facts)
    except ValidationError as error:
        raise InvalidDataError(
            "the manifest of a published dataset lacks its summary",
            value=str(folder),
            remedy="Delete the folder; it will be made again.",
            reason="corrupt_artifact",
        ) from error


def _announced(result: PrepareResult, progress: Progress) -> PrepareResult:
    progress.artifact("dataset", result.uri, result.model_dump(mode="json", exclude={"uri"}))
    return result


def _stop_if_asked(progress: Progress) -> None:
    if progress.should_stop():
        raise InterruptedStageError("data preparation was asked to stop; it starts anew when it is resumed")
