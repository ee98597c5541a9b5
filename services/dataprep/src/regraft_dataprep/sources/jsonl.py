"""JSON lines: one JSON object per line, plain or compressed.

The text is the value of `text`, or of `dataset.reading.text_key`. Blank lines are skipped. A line that is no JSON
object, or whose text, id or date is not one, is a bad record. The trade-off: a line is held as a whole, up to 64 MiB.
Not for one large JSON array.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import orjson

from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import File, Uris
from regraft_dataprep.sources._records import document_of, keys_of
from regraft_dataprep.sources.base import BadRecord, Source

_MAX_LINE_BYTES = 64 * 2**20
_BOM = b"\xef\xbb\xbf"


class JsonLinesSource(Source):
    """The corpus in files of JSON lines."""

    suffixes = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz")

    def read_file(self, file: File) -> Iterator[Document | BadRecord]:
        keys = keys_of(self.reading)
        with file.open() as stream:
            for number, line in enumerate(_lines(stream), start=1):
                values = _parsed(line.removeprefix(_BOM) if number == 1 else line)
                if isinstance(values, dict):
                    yield document_of(values, keys=keys, file=file, number=number)
                elif values:
                    yield BadRecord(file.name, number, values)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return JsonLinesSource(uri, reading=reading)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long only its beginning, which is longer than any line may be."""
    while line := stream.readline(_MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > _MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(_MAX_LINE_BYTES + 1)
        yield line


def _parsed(line: bytes) -> dict[str, object] | str:
    """The object in a line, or what is wrong with it; nothing is wrong with a blank one."""
    if not line.strip():
        return ""
    if len(line) > _MAX_LINE_BYTES:
        return f"the line is longer than {_MAX_LINE_BYTES} bytes"
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"it is no JSON in UTF-8: {error}"
    return values if isinstance(values, dict) else f"it is no JSON object but of type {type(values).__name__}"
