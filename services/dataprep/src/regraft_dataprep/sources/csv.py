"""CSV as spreadsheets and databases write it (RFC 4180): a header, commas, double quotes; plain or compressed.

By default the columns are `date` (if there is one), `headline` and `story`, and the text is the headline, a newline
and the story. A row with more or fewer fields than the header, with broken quotes or broken UTF-8, or whose date is
none, is a bad record; it is named by the line it ends on. The trade-offs: a file is one part, as a quote before any
place in it may be open; one that is never closed swallows the rows after it, up to 64 Mi characters. Not for other
separators.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace

from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import File, Uris
from regraft_dataprep.sources._records import Keys, check_columns, document_of, is_unicode, keys_in_effect, keys_of
from regraft_dataprep.sources.base import BadRecord, Part, Source

_DATE, _TEXT = "date", ("headline", "story")
_MAX_ROW_CHARACTERS = 64 * 2**20


class CsvSource(Source):
    """The corpus in CSV files."""

    suffixes = (".csv", ".csv.gz", ".csv.zst")

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        file = self.files[part.file]
        # Broken UTF-8 becomes lone surrogates, so that it is the one row's fault.
        with io.TextIOWrapper(file.open(), encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            rows = _rows(text, file)
            header = next(rows, None)
            if isinstance(header, BadRecord):
                yield header
            elif header:
                yield from self._documents(rows, header[1], file)

    def _documents(
        self, rows: Iterator[tuple[int, list[str]] | BadRecord], header: list[str], file: File
    ) -> Iterator[Document | BadRecord]:
        keys = self._keys(header)
        check_columns(header, keys=keys, file=file)
        for row in rows:
            if isinstance(row, BadRecord):
                yield row
                continue
            number, fields = row
            record = _record(header, fields, keys=keys)
            yield record if isinstance(record, Document) else BadRecord(file.name, number, record)

    def _keys(self, header: list[str]) -> Keys:
        keys = keys_of(self.reading, text=_TEXT)
        return replace(keys, date=_DATE) if keys.date is None and _DATE in header else keys


def in_effect(reading: ReadingSpec) -> ReadingSpec:
    """What this source uses of it. A `date_key: date` is not null: it must be there."""
    return keys_in_effect(reading, text=_TEXT)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return CsvSource(uri, reading=reading)


class _Lines:
    """The lines of a file for `csv.reader`, which would hold a row of any length."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = 0
        """Of the last line."""
        self.taken = 0
        """Characters since this was set to 0."""

    def __iter__(self) -> Iterator[str]:
        """Goes on where the last one stopped."""
        readline = self._text.readline
        while line := readline(_MAX_ROW_CHARACTERS):
            self.number += 1
            self.taken += len(line)
            if self.taken >= _MAX_ROW_CHARACTERS:
                while line and not line.endswith(("\n", "\r")):
                    line = readline(_MAX_ROW_CHARACTERS)
                raise csv.Error(f"the row is longer than {_MAX_ROW_CHARACTERS} characters")
            yield line


def _rows(text: io.TextIOWrapper, file: File) -> Iterator[tuple[int, list[str]] | BadRecord]:
    """Rows with the number of their last line, without blank ones."""
    csv.field_size_limit(_MAX_ROW_CHARACTERS)
    lines = _Lines(text)
    at_end = False
    while not at_end:
        try:
            for row in csv.reader(lines, strict=True):
                lines.taken = 0
                if row:
                    yield lines.number, row
            at_end = True
        except csv.Error as error:  # the reader is done with it, the file is not
            lines.taken = 0
            yield BadRecord(file.name, lines.number, f"it is no CSV: {error}")


def _record(header: list[str], fields: list[str], *, keys: Keys) -> Document | str:
    if len(fields) != len(header):
        return f"it has {len(fields)} fields and the header {len(header)}"
    values = dict(zip(header, fields, strict=True))
    broken = next((key for key in keys.all if not is_unicode(values[key])), None)
    return f"{broken!r} is not valid UTF-8" if broken is not None else document_of(values, keys=keys)
