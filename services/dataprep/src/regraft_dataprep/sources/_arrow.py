"""Documents out of Arrow record batches: shared by the sources that read Parquet and Arrow files.

Whole columns become Python values, a few hundred rows at a time; where that fails, as with broken UTF-8, the rows are
taken one by one, so that it is the fault of one of them. The trade-off: a broken row makes its neighbours slow. Not for
nested columns.
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

_ROWS = 512
_UNREADABLE = (UnicodeDecodeError, OverflowError, ValueError)


def documents_in(
    batches: Iterator[pa.RecordBatch], *, keys: Keys, file: File, rows_before: int = 0
) -> Iterator[Document | BadRecord]:
    """One per row; rows are counted from 1 over the whole file, of which `rows_before` were skipped."""
    number = rows_before
    for batch in _whole(batches, file):
        for start in range(0, batch.num_rows, _ROWS):
            for row in _rows(batch.slice(start, _ROWS), keys):
                number += 1
                record = document_of(row, keys=keys) if isinstance(row, dict) else row
                yield record if isinstance(record, Document) else BadRecord(file.name, number, record, "row")


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


def _rows(batch: pa.RecordBatch, keys: Keys) -> Iterator[dict[str, object] | str]:
    """The values of each row, or why they cannot be read."""
    columns = {key: _datable(batch.column(key)) for key in keys.all}
    try:
        values = [column.to_pylist() for column in columns.values()]
    except _UNREADABLE:
        return (_row(columns, number) for number in range(batch.num_rows))
    return (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))


def _row(columns: dict[str, pa.Array], number: int) -> dict[str, object] | str:
    try:
        return {key: column[number].as_py() for key, column in columns.items()}
    except _UNREADABLE as error:
        return f"a value cannot be read: {error}"


def _datable(column: pa.Array) -> pa.Array:
    """Times in microseconds, which are all that Python knows."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    return column
