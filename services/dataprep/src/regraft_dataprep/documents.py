"""`documents.parquet`: one row for every document with text, so that a window can be traced to its story.

Columns: `id` and `timestamp` as the source gave them, `characters` after cleaning, `tokens` with EOS, `split` (null for
what was dropped), `dropped_by` (the cleaning step; `near_duplicate_of_train` for a held-out one), `start` (the first
token's place in the split's stream). A document of many million characters has several rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from regraft_dataprep.cleaning import name_of
from regraft_dataprep.decide import DROPPED, Sides
from regraft_dataprep.gathered import Gathered
from regraft_dataprep.pieces import NO_DATE, Documents, names
from regraft_dataprep.units import SPLITS

_GROUP = 16_384
_FEW_VALUES = ["split", "dropped_by"]  # dictionaries of the other columns cost 50 MB and save nothing
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("timestamp", pa.timestamp("s")),
        ("characters", pa.uint32()),
        ("tokens", pa.uint32()),
        ("split", pa.string()),
        ("dropped_by", pa.string()),
        ("start", pa.int64()),
    ]
)


def write_documents(path: Path, gathered: Gathered) -> None:
    """The file."""
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd", use_dictionary=_FEW_VALUES) as writer:
        for group in _groups(_tables(gathered)):
            writer.write_table(group)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of all tables in row groups of one size: how the corpus was cut into pieces must not show."""
    held = _SCHEMA.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= _GROUP:
            yield held.slice(0, _GROUP).combine_chunks()
            held = held.slice(_GROUP)
    if len(held):
        yield held.combine_chunks()


def _tables(gathered: Gathered) -> Iterator[pa.Table]:
    """A table for every stretch of a piece."""
    streams = dict.fromkeys(SPLITS, 0)
    for number, (own, documents) in enumerate(gathered.corpus.parts()):
        ids = names(gathered.units.piece_folder(number), count=len(documents))
        for first in range(0, len(documents), _GROUP):
            part = documents[first : first + _GROUP]
            rows = slice(own.start + first, own.start + first + len(part))
            yield _table(gathered, rows, part, ids=list(islice(ids, len(part))), streams=streams)


def _table(
    gathered: Gathered, rows: slice, documents: Documents, *, ids: list[str], streams: dict[str, int]
) -> pa.Table:
    """Of these rows of the corpus; `streams` are the tokens of each split before them, and are added to."""
    steps = ["near_duplicate_of_train", *(name_of(step) for step in gathered.spec.cleaning)]
    sides, fate = gathered.decision.sides[rows], gathered.decision.fate[rows]
    dropped, dates = sides == DROPPED, np.array(documents["timestamp"])
    columns = [
        pa.array([name or None for name in ids], pa.string()),
        pa.array(dates, pa.timestamp("s"), mask=dates == NO_DATE),
        pa.array(documents["characters"]),
        pa.array(documents["tokens"]),
        _named(list(SPLITS), np.minimum(sides, len(SPLITS) - 1), hidden=dropped),
        _named(steps, fate, hidden=~dropped),
        pa.array(_starts(documents, sides, streams), mask=dropped),
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _starts(documents: Documents, sides: Sides, streams: dict[str, int]) -> npt.NDArray[np.int64]:
    """Each document's place in the stream of its split; 0 for what was dropped."""
    tokens = documents["tokens"].astype(np.int64)
    starts = np.zeros(len(tokens), dtype=np.int64)
    for name, side in SPLITS.items():
        own = np.where(sides == side, tokens, 0)
        starts[sides == side] = (streams[name] + np.cumsum(own) - own)[sides == side]
        streams[name] += int(own.sum())
    return starts


def _named(names: list[str], numbers: np.ndarray, *, hidden: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32(), mask=hidden), pa.array(names)).cast(pa.string())
