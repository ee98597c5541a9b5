"""What a data source is: one file in this package with a class derived from `Source` and its `open_source`.

A corpus is the sum of its *parts*, in their order. A part is a file or a piece of one that can be read on its own, so
several processes can read a corpus side by side; where it is cut depends on the files alone, never on the machine. A
source says how a part becomes documents (`read`) and, when its files can be read from the middle, where to cut them
(`spans`); finding and hashing files is here. The trade-off: the hash costs one pass over the bytes before the first
document is read. Not for what cannot be read twice, such as a pipe.
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import FIELD, File, Uris, find_files
from regraft_dataprep.sources._streams import count_newlines, sha256_of

PART_BYTES = 32 * 2**20
_HASHING_THREADS = 4

Span = tuple[int, int | None]
"""`start` and `end` of a part."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of one file that can be read on its own; a corpus is the sum of its parts, in order."""

    file: int
    """Position in `Source.files`."""
    start: int = 0
    """Bytes for text formats, row groups for Parquet."""
    end: int | None = None
    """None: to the end."""

    @property
    def stop(self) -> int:
        """`end` as a number, beyond every file where there is none."""
        return sys.maxsize if self.end is None else self.end


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a corpus is, byte for byte."""

    sha256: str
    """Of the raw bytes of a single file; of the files' digests, in order, when there are several."""
    bytes: int
    files: int
    digests: tuple[str, ...] = ()
    """sha256 of each file."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no document. What it says must not depend on where the file lies."""

    file: str
    """Its name, as in `File.name`."""
    number: int
    """Of its line, or of its row, in the whole file."""
    cause: str
    unit: str = "line"
    """What is counted by `number`."""

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}: {self.cause}"


class Source(ABC):
    """A corpus in files."""

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files that are read in a folder, in lower case."""

    def __init__(self, uri: Uris, *, reading: ReadingSpec | None = None) -> None:
        self.reading = reading or ReadingSpec()
        self.raw = False
        """Texts are given as they lie in the file: the steps of the dataset clean what the source otherwise cleans."""
        self.stray_lines = 0
        """Lines with text outside of any document, which are ignored: counts up while parts are read."""
        self.files = self.select(find_files(uri, suffixes=self.suffixes))
        if not self.files:
            raise empty_corpus(str(uri))
        self._stamps = [file.stamp() for file in self.files]
        self._counted: dict[int, tuple[int, int]] = {}
        """By file: a position, and the newlines before it."""

    @abstractmethod
    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        """All documents of a part in order, those without text too; what is none is a BadRecord.

        However the files are cut into parts, all of them together yield the same: each record once, with the same
        number. A document that is not held whole is yielded in pieces, of which all but the last `continues`.

        Raises:
            InvalidDataError: what is wrong concerns the whole file.
        """

    def spans(self, file: File, *, part_bytes: int) -> list[Span]:
        """Where the parts of a file begin and end; for sources that can read a file from its middle."""
        return [(0, None)]

    def select(self, files: list[File]) -> list[File]:
        """The files to read out of those found; for sources whose folders say which."""
        return files

    def parts(self, *, part_bytes: int = PART_BYTES) -> list[Part]:
        """The corpus in parts of about `part_bytes`, at least one per file: the same ones on every machine."""
        spans = [self.spans(file, part_bytes=part_bytes) for file in self.files]
        return [Part(number, *span) for number, of_file in enumerate(spans) for span in of_file]

    def inventory(self) -> Inventory:
        """One pass over the raw bytes of all files, a few of them side by side."""
        with ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="hash") as pool:
            digests, sizes = zip(*pool.map(_digest, self.files), strict=True)
        sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return Inventory(sha256, sum(sizes), len(digests), digests)

    def lines_before(self, file: int, position: int) -> int:
        """Newlines in a file before a byte of its (unpacked) content, for line numbers in messages.

        Counts on from where it was asked before, so that many bad records do not read a file many times.
        """
        start, lines = self._counted.get(file, (0, 0))
        if position < start:
            start, lines = 0, 0
        if position > start:
            with self.files[file].open() as stream:
                if start:
                    stream.seek(start)
                lines += count_newlines(stream, position - start)
        if self.files[file].plain:
            self._counted[file] = position, lines
        return lines

    def check_unchanged(self) -> None:
        """Raises InvalidDataError when a file was changed since this object was made."""
        for file, stamp in zip(self.files, self._stamps, strict=True):
            if _now(file) != stamp:
                raise corpus_changed(file.uri)


def by_bytes(file: File, *, part_bytes: int) -> list[Span]:
    """Spans of `part_bytes`; the whole file when it is packed, or of a size that nobody knows."""
    size = file.size() if file.plain else None
    if size is None or size <= part_bytes:
        return [(0, None)]
    return [(start, min(start + part_bytes, size)) for start in range(0, size, part_bytes)]


def empty_corpus(uri: str) -> InvalidDataError:
    """The error of a corpus without a single document."""
    return InvalidDataError(
        "the corpus has no document with text in it",
        field=FIELD,
        value=uri,
        remedy="Name a file with at least two documents.",
        reason="corpus_empty",
    )


def corpus_changed(uri: str) -> InvalidDataError:
    """The error of a file that is not any more what it was when the corpus was found."""
    return InvalidDataError(
        "the corpus was changed while it was read",
        field=FIELD,
        value=uri,
        remedy="Prepare it again once nobody writes to it.",
        reason="corpus_changed",
    )


def too_many(total: int, limit: int, last: BadRecord) -> InvalidDataError:
    """The error of more bad records than `dataset.reading.max_bad_records` allows."""
    return InvalidDataError(
        f"{total} records cannot be read and {limit} may be; the last is {last}",
        field=FIELD,
        value=last.file,
        remedy="Mend the record, or allow more of them with dataset.reading.max_bad_records.",
        reason="too_many_bad_records",
    )


def _digest(file: File) -> tuple[str, int]:
    with file.open_raw() as stream:
        return sha256_of(stream)


def _now(file: File) -> object:
    try:
        return file.stamp()
    except FileNotFoundError:
        return None
