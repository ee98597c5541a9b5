"""JSON lines: one JSON object per line, plain or compressed.

The text is the value of `text`, or of `dataset.reading.text_key`. Blank lines are skipped. A line that is no JSON
object, or whose text, id or date is not one, is a bad record. Plain files are read in parts, compressed ones whole. The
trade-off: a line is held as a whole, up to 64 MiB. Not for one large JSON array.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import File, Uris
from regraft_dataprep.sources._lines import BOM, first_line, lines
from regraft_dataprep.sources._records import document_of, keys_in_effect, keys_of
from regraft_dataprep.sources.base import BadRecord, Part, Source, Span, by_bytes

_MAX_LINE_BYTES = 64 * 2**20


class JsonLinesSource(Source):
    """The corpus in files of JSON lines."""

    suffixes = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz")

    def spans(self, file: File, *, part_bytes: int) -> list[Span]:
        return by_bytes(file, part_bytes=part_bytes)

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        file, keys = self.files[part.file], keys_of(self.reading)
        with file.open() as stream:
            first = first_line(stream, part)
            found = lines(stream, position=first, stop=part.stop, limit=_MAX_LINE_BYTES)
            for number, line in enumerate(found, start=1):
                values = _parsed(line, may_have_bom=first == 0 and number == 1)
                record = document_of(values, keys=keys) if type(values) is dict else values
                if type(record) is Document:
                    yield record
                elif isinstance(record, str):
                    yield BadRecord(file.name, self.lines_before(part.file, first) + number, record)


def in_effect(reading: ReadingSpec) -> ReadingSpec:
    """What this source uses of it."""
    return keys_in_effect(reading)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return JsonLinesSource(uri, reading=reading)


def _parsed(line: bytes, *, may_have_bom: bool) -> dict[str, object] | str | None:
    """The object in a line, or what is wrong with it; None for a blank one.

    What the parser takes holds no lone surrogates, neither as bytes nor as escapes.
    """
    if len(line) > _MAX_LINE_BYTES:
        return f"the line is longer than {_MAX_LINE_BYTES} bytes"
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if may_have_bom and line.startswith(BOM):
            return _parsed(line.removeprefix(BOM), may_have_bom=False)
        return f"it is no JSON in UTF-8: {error}" if line.strip() else None
    return values if isinstance(values, dict) else f"it is no JSON object but of type {type(values).__name__}"
