"""CSV as spreadsheets and databases write it (RFC 4180): a header, commas, double quotes; plain or compressed.

By default the columns are `date` (if there is one), `headline` and `story`, and the text is the headline, a newline
and the story. A row with more or fewer fields than the header, with broken quotes or broken UTF-8, or whose date is
none, is a bad record; it is named by the line it ends on. The trade-off: a quote that is never closed swallows the
rows after it, up to 64 MiB. Not for other separators.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace

from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import File, Uris
from regraft_dataprep.sources._records import Keys, check_columns, document_of, keys_of
from regraft_dataprep.sources.base import BadRecord, Source

_DATE, _TEXT = "date", ("headline", "story")
_MAX_FIELD_CHARACTERS = 64 * 2**20


class CsvSource(Source):
    """The corpus in CSV files."""

    suffixes = (".csv", ".csv.gz", ".csv.zst")

    def read_file(self, file: File) -> Iterator[Document | BadRecord]:
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
            elif len(row[1]) != len(header):
                yield BadRecord(file.name, row[0], f"it has {len(row[1])} fields and the header {len(header)}")
            else:
                yield document_of(dict(zip(header, row[1], strict=True)), keys=keys, file=file, number=row[0])

    def _keys(self, header: list[str]) -> Keys:
        keys = keys_of(self.reading, text=_TEXT)
        return replace(keys, date=_DATE) if keys.date is None and _DATE in header else keys


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return CsvSource(uri, reading=reading)


def _rows(text: io.TextIOWrapper, file: File) -> Iterator[tuple[int, list[str]] | BadRecord]:
    """Rows with the number of their last line, without blank ones."""
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    rows = csv.reader(text, strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRecord(file.name, rows.line_num, f"it is no CSV: {error}")
            continue
        if row:
            yield rows.line_num, row
