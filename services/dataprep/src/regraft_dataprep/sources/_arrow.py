"""Documents out of Arrow record batches: shared by the sources that read Parquet and Arrow files.

Values are taken out one by one, so that broken UTF-8 is the fault of one row. The trade-off: slower than whole
columns, and still much faster than a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from regraft.errors import InvalidDataError
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import FIELD, File
from regraft_dataprep.sources._records import Keys, document_of
from regraft_dataprep.sources.base import BadRecord


def documents_in(batches: Iterator[pa.RecordBatch], *, keys: Keys, file: File) -> Iterator[Document | BadRecord]:
    """One per row; rows are counted from 1 over all batches."""
    number = 0
    for batch in _whole(batches, file):
        columns = {key: _datable(batch.column(key)) for key in keys.all}
        for row in range(batch.num_rows):
            number += 1
            yield _document({key: column[row] for key, column in columns.items()}, keys=keys, file=file, number=number)


@contextmanager
def naming(file: File) -> Iterator[None]:
    """What is wrong with a file, with its name."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's, not Arrow's
            raise
        raise broken(file, str(error)) from error


def broken(file: File, cause: str) -> InvalidDataError:
    return InvalidDataError(
        f"the file is broken, cut off or of another format: {cause}",
        field=FIELD,
        value=file.uri,
        remedy="Get the whole file, or name another source.",
        reason="corpus_malformed",
    )


def _whole(batches: Iterator[pa.RecordBatch], file: File) -> Iterator[pa.RecordBatch]:
    while True:
        with naming(file):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _document(row: dict[str, pa.Scalar], *, keys: Keys, file: File, number: int) -> Document | BadRecord:
    try:
        values = {key: scalar.as_py() for key, scalar in row.items()}
    except (UnicodeDecodeError, OverflowError, ValueError) as error:
        return BadRecord(file.name, number, f"a value cannot be read: {error}", "row")
    return document_of(values, keys=keys, file=file, number=number, unit="row")


def _datable(column: pa.Array) -> pa.Array:
    """Times in microseconds, which are all that Python knows."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    return column
