"""What a data source is: one file in this package with a class derived from `Source` and its `open_source`.

A source says how one file becomes documents (`read_file`); finding files, hashing, ids, columns and the limit on bad
records are here. A corpus is read twice in file order: `scan` learns what is needed to name and to split it,
`documents` yields the text. The trade-off: reading twice costs disk bandwidth and saves holding the corpus in memory.
Not for what cannot be read twice, such as a pipe.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._columns import Columns, Facts, facts_of
from regraft_dataprep.sources._files import FIELD, File, Uris, find_files

_BAD_SHOWN = 20
_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no document. What it says must not depend on where the file lies."""

    file: str
    """Its name, as in `File.name`."""
    number: int
    """Of its line, or of its row."""
    cause: str
    unit: str = "line"
    """What is counted by `number`."""

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}: {self.cause}"


@dataclass(frozen=True, slots=True)
class BadRecords:
    """Those of a whole corpus."""

    total: int = 0
    first: tuple[BadRecord, ...] = ()
    """Twenty at most."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A corpus in columns; position i of each is the i-th document that `documents` yields."""

    sha256: str
    """Of the raw bytes of a single file; of the files' digests, in order, when there are several."""
    bytes: int
    timestamps: npt.NDArray[np.datetime64]
    """datetime64[s]; NaT where a document has none."""
    ids: npt.NDArray[Any]
    """Bytes strings (dtype S); empty where a document has none of its own, and where it is undated: there the
    position decides."""
    has_text: npt.NDArray[np.bool_]
    """False where nothing is left after cleaning."""
    stray_lines: int = 0
    """Lines with text outside of any story, which are ignored."""
    bad: BadRecords = BadRecords()
    """Records that are left out."""

    @property
    def stories(self) -> int:
        return len(self.ids)


class Source(ABC):
    """A corpus in files."""

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files that are read in a folder, in lower case."""

    def __init__(self, uri: Uris, *, reading: ReadingSpec | None = None) -> None:
        self.reading = reading or ReadingSpec()
        self.stray_lines = 0
        """A source may count here while its facts are read."""
        self.files = self.select(find_files(uri, suffixes=self.suffixes))
        if not self.files:
            raise empty_corpus(str(uri))
        self._stamps = [file.stamp() for file in self.files]

    @abstractmethod
    def read_file(self, file: File) -> Iterator[Document | BadRecord]:
        """All documents of a file in order, those without text too; what is none is a BadRecord.

        A document's `id` is empty where the file has none; its `metadata["timestamp"]` is ISO 8601 without a zone.
        """

    def facts(self, file: File) -> Iterator[Facts | BadRecord]:
        """What a scan has to know of each record; for sources that know it sooner than the text."""
        return (record if isinstance(record, BadRecord) else facts_of(record) for record in self.read_file(file))

    def select(self, files: list[File]) -> list[File]:
        """The files to read out of those found; for sources whose folders say which."""
        return files

    def scan(self) -> Scan:
        """One pass over the raw bytes. Raises InvalidDataError when the structure is not the source's."""
        self.stray_lines = 0
        columns, bad, digests = Columns(), _BadCount(self.reading.max_bad_records), []
        for file in (file.hashed() for file in self.files):
            for facts in bad.without(self.facts(file)):
                columns.add(facts)
            digests.append(file.digest())
        timestamps, ids, has_text = columns.arrays()
        sha256, size = _sha256([digest.sha256 for digest in digests]), sum(digest.bytes for digest in digests)
        scan = Scan(sha256, size, timestamps, ids, has_text, self.stray_lines, bad.result())
        if not scan.has_text.any():
            raise empty_corpus(self.files[0].uri)
        return scan

    def documents(self) -> Iterator[Document]:
        """All documents in file order, those without text too, with memory for a few of them."""
        bad = _BadCount(self.reading.max_bad_records)
        for file in self.files:
            for number, document in enumerate(bad.without(self.read_file(file)), start=1):
                yield document if document.id else replace(document, id=f"{file.name}:{number}")

    def check_unchanged(self) -> None:
        """Raises InvalidDataError when a file was changed since this object was made."""
        for file, stamp in zip(self.files, self._stamps, strict=True):
            if _now(file) != stamp:
                raise InvalidDataError(
                    "the corpus was changed while it was read",
                    field=FIELD,
                    value=file.uri,
                    remedy="Prepare it again once nobody writes to it.",
                    reason="corpus_changed",
                )


class _BadCount:
    """Counts bad records and raises at the one that is too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._first: list[BadRecord] = []

    def without(self, records: Iterable[_Record | BadRecord]) -> Iterator[_Record]:
        for record in records:
            if isinstance(record, BadRecord):
                self._count(record)
            else:
                yield record

    def result(self) -> BadRecords:
        return BadRecords(self._total, tuple(self._first))

    def _count(self, record: BadRecord) -> None:
        self._total += 1
        if len(self._first) < _BAD_SHOWN:
            self._first.append(record)
        if self._total > self._limit:
            raise InvalidDataError(
                f"{self._total} records cannot be read and {self._limit} may be; the last is {record}",
                field=FIELD,
                value=record.file,
                remedy="Mend the record, or allow more of them with dataset.reading.max_bad_records.",
                reason="too_many_bad_records",
            )


def empty_corpus(uri: str) -> InvalidDataError:
    """The error of a corpus without a single document."""
    return InvalidDataError(
        "the corpus has no document with text in it",
        field=FIELD,
        value=uri,
        remedy="Name a file with at least two documents.",
        reason="corpus_empty",
    )


def _sha256(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _now(file: File) -> object:
    try:
        return file.stamp()
    except FileNotFoundError:
        return None
