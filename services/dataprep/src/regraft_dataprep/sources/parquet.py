"""Parquet: one row per document, the text in the column `text` or `dataset.reading.text_key`.

Only the columns asked for are read, a few hundred rows at a time. A part is one row group or several. A row whose text
is null, or whose id or date is not one, is a bad record, named by its row (from 1). The trade-off: a file of one large
row group is one part. Not for text in nested columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._arrow import documents_in, naming
from regraft_dataprep.sources._files import File, Uris
from regraft_dataprep.sources._records import check_columns, keys_in_effect, keys_of
from regraft_dataprep.sources.base import BadRecord, Part, Source, Span

_MAX_ROWS = 512
_BATCH_BYTES = 16 * 2**20
_BUFFER_BYTES = 2**20
"""Columns are read in blocks of it, not a row group at a time."""


class ParquetSource(Source):
    """The corpus in Parquet files."""

    suffixes = (".parquet",)

    def spans(self, file: File, *, part_bytes: int) -> list[Span]:
        with file.open_raw() as stream, naming(file):
            metadata = pq.read_metadata(stream)
        starts, held = [0], 0
        for group in range(metadata.num_row_groups):
            if held >= part_bytes:
                starts.append(group)
                held = 0
            held += metadata.row_group(group).total_byte_size
        return list(zip(starts, [*starts[1:], None], strict=True))

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        file, keys = self.files[part.file], keys_of(self.reading)
        with file.open_raw() as stream:
            with naming(file):
                table = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
            check_columns(table.schema_arrow.names, keys=keys, file=file)
            groups = range(part.start, min(part.stop, table.num_row_groups))
            before = sum(table.metadata.row_group(group).num_rows for group in range(part.start))
            batches = table.iter_batches(
                batch_size=_batch_rows(table.metadata, groups), row_groups=groups, columns=keys.all, use_threads=False
            )
            yield from documents_in(batches, keys=keys, file=file, rows_before=before)


def in_effect(reading: ReadingSpec) -> ReadingSpec:
    """What this source uses of it."""
    return keys_in_effect(reading)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return ParquetSource(uri, reading=reading)


def _batch_rows(metadata: pq.FileMetaData, groups: range) -> int:
    """As many as take about 16 MiB, so that a few hundred books are not held at once."""
    found = [metadata.row_group(group) for group in groups]
    rows, size = sum(group.num_rows for group in found), sum(group.total_byte_size for group in found)
    return max(1, min(_MAX_ROWS, _BATCH_BYTES * rows // max(size, 1)))
