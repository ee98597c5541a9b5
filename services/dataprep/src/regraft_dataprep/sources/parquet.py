"""Parquet: one row per document, the text in the column `text` or `dataset.reading.text_key`.

Only the columns asked for are read, a few hundred rows at a time. A row whose text is null, or whose id or date is
not one, is a bad record, named by its row (from 1). The trade-off: the file is read once more for its hash, as its
parts lie in no order. Not for text in nested columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._arrow import documents_in, naming
from regraft_dataprep.sources._files import File, Uris
from regraft_dataprep.sources._records import check_columns, keys_of
from regraft_dataprep.sources.base import BadRecord, Source

_ROWS = 512


class ParquetSource(Source):
    """The corpus in Parquet files."""

    suffixes = (".parquet",)

    def read_file(self, file: File) -> Iterator[Document | BadRecord]:
        keys = keys_of(self.reading)
        with file.open_raw() as stream:
            with naming(file):
                table = pq.ParquetFile(stream)
            check_columns(table.schema_arrow.names, keys=keys, file=file)
            batches = table.iter_batches(batch_size=_ROWS, columns=keys.all)
            yield from documents_in(batches, keys=keys, file=file)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return ParquetSource(uri, reading=reading)
