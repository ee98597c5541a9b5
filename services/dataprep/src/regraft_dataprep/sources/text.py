"""Plain text in UTF-8: a document per file, or per paragraph that blank lines set apart; plain or compressed.

`dataset.reading.documents` chooses. Documents are undated, so the last ones are held out. Text that is no UTF-8 is a
bad record, the whole file or the one paragraph, named by the line it begins on. The trade-off: a document is held as
a whole. Not for text with markup or other encodings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import File, Uris
from regraft_dataprep.sources.base import BadRecord, Source

_BOM = b"\xef\xbb\xbf"


class TextSource(Source):
    """The corpus in text files."""

    suffixes = (".txt", ".txt.gz", ".txt.zst")

    def read_file(self, file: File) -> Iterator[Document | BadRecord]:
        with file.open() as stream:
            parts = iter([(1, stream.read())]) if self.reading.documents == "file" else _paragraphs(stream)
            for line, part in parts:
                yield _document(part, line=line, file=file)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return TextSource(uri, reading=reading)


def _paragraphs(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """With the number of their first line."""
    lines: list[bytes] = []
    number = 0
    for number, line in enumerate(stream, start=1):
        if line.strip() not in (b"", _BOM):
            lines.append(line)
        elif lines:
            yield number - len(lines), b"".join(lines)
            lines = []
    if lines:
        yield number + 1 - len(lines), b"".join(lines)


def _document(part: bytes, *, line: int, file: File) -> Document | BadRecord:
    try:
        return Document(part.decode("utf-8-sig" if line == 1 else "utf-8").strip(), id="")
    except UnicodeDecodeError as error:
        cause = f"it is not valid UTF-8: {error.reason} at byte {error.start} of the document"
        return BadRecord(file.name, line, cause)
