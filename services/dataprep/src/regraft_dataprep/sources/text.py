"""Plain text in UTF-8: a document per file, or per paragraph that blank lines set apart; plain or compressed.

`dataset.reading.documents` chooses. Documents are undated, so the last ones are held out. Text that is no UTF-8 is a
bad record, the whole file or the one paragraph, named by the line it begins on. A document longer than 16 MiB is not
held as a whole but yielded in pieces; broken UTF-8 in it is an error, as its beginning is passed on already. Paragraphs
of plain files are read in parts, other files whole. The trade-off: one process reads a large file that is one document.
Not for text with markup or other encodings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import FIELD, File, Uris
from regraft_dataprep.sources._lines import BOM, first_line
from regraft_dataprep.sources._pieces import BrokenDocumentError, Pieces
from regraft_dataprep.sources.base import BadRecord, Part, Source, Span, by_bytes

_FRAGMENT_BYTES = 2**20
_NEWLINE = ord("\n")
_MAY_BE_BLANK = frozenset(b" \t\n\r\x0b\x0c" + BOM[:1])
"""First bytes of a blank line: most lines need no second look."""
_Found = Iterator[tuple[int, Document | str]]
"""With the number of the document's first line; a text says what is wrong with it."""


class TextSource(Source):
    """The corpus in text files."""

    suffixes = (".txt", ".txt.gz", ".txt.zst")

    def spans(self, file: File, *, part_bytes: int) -> list[Span]:
        return by_bytes(file, part_bytes=part_bytes) if self.reading.documents == "paragraph" else [(0, None)]

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        file = self.files[part.file]
        by_file = self.reading.documents == "file"
        with file.open() as stream, _naming(file):
            first = first_line(stream, part)
            for line, record in _whole(stream) if by_file else _paragraphs(stream, first, stop=part.stop):
                if isinstance(record, str):
                    yield BadRecord(file.name, self.lines_before(part.file, first) + line, record)
                else:
                    yield record


def in_effect(reading: ReadingSpec) -> ReadingSpec:
    """What this source uses of it."""
    return ReadingSpec(documents=reading.documents)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return TextSource(uri, reading=reading)


@contextmanager
def _naming(file: File) -> Iterator[None]:
    try:
        yield
    except BrokenDocumentError as error:
        raise InvalidDataError(
            f"a document of more than 16 MiB is not valid UTF-8: {error.reason} at byte {error.position} of the file",
            field=FIELD,
            value=file.uri,
            remedy="Convert the file to UTF-8, or mend that place.",
            reason="corpus_malformed",
        ) from error


def _whole(stream: BinaryIO) -> _Found:
    pieces = Pieces()
    while fragment := stream.read(_FRAGMENT_BYTES):
        if piece := pieces.add(fragment):
            yield 1, piece
    yield 1, pieces.finish()


def _paragraphs(stream: BinaryIO, first: int, *, stop: int) -> _Found:
    pieces, begin = None, 0
    for line, position, fragment in _fragments(stream, first, stop=stop):
        if fragment:
            if pieces is None:
                pieces, begin = Pieces(position), line
            if piece := pieces.add(fragment):
                yield begin, piece
        elif pieces:
            yield begin, pieces.finish()
            pieces = None
    if pieces:
        yield begin, pieces.finish()


def _fragments(stream: BinaryIO, position: int, *, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """Lines, long ones in pieces, with number and position; nothing instead of a blank one, which ends a paragraph.

    A paragraph belongs to the part that the blank line before it begins in, so no part has to look back. A line is
    taken for blank when its first fragment is.
    """
    line, line_position, line_begins = 1, position, True
    wanted = position == 0
    while fragment := stream.readline(_FRAGMENT_BYTES):
        blank = line_begins and fragment[0] in _MAY_BE_BLANK and _is_blank(fragment)
        wanted = wanted or blank
        if line_position >= stop and (blank or not wanted):
            return
        if wanted:
            yield line, position, b"" if blank else fragment
        position += len(fragment)
        line_begins = blank
        if fragment[-1] == _NEWLINE:
            line, line_position, line_begins = line + 1, position, True


def _is_blank(fragment: bytes) -> bool:
    return fragment.isspace() or (fragment.startswith(BOM) and fragment.strip() == BOM)
