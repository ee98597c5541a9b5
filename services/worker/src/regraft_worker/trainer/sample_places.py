"""Where windows of a ledger's dataset lie, and which documents are in them, as far as the dataset is still there."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regraft.errors import InvalidInputError
from regraft.hdf5 import Dataset
from regraft.storage import local_path, read_manifest
from regraft_worker.trainer.data import has_windows
from regraft_worker.trainer.fitting import is_flat
from regraft_worker.trainer.ledger import LedgerPart


class Places:
    """Of one dataset."""

    def __init__(self, part: LedgerPart) -> None:
        self._folder = local_path(part.uri)

    def file_and_row(self, window: int) -> str:
        """`<file>:<row in it>`; empty when the files are gone, or hold a stream that is cut while it is read."""
        if self._split is None or self._split.is_stream:
            return ""
        ends = np.cumsum([shard.examples for shard in self._split.shards])
        number = int(np.searchsorted(ends, window, side="right"))
        shard = self._split.shards[number]
        return f"{shard.path.name}:{window - int(ends[number]) + shard.examples}"

    def documents(self, window: int) -> list[str]:
        """The documents that have tokens in this window or its last label, in order: their ids, or their rows in
        documents.parquet where the corpus gave them none.

        Raises:
            InvalidInputError: the dataset does not say.
        """
        starts, ids = self._documents
        length = self._length
        first = int(np.searchsorted(starts, window * length, side="right")) - 1
        last = int(np.searchsorted(starts, (window + 1) * length, side="right"))
        return [str(name) for name in ids[max(0, first) : last]]

    @cached_property
    def _split(self) -> Dataset | None:
        folder = self._folder if is_flat(self._folder) else self._folder / "train"
        # The length matters for streams only, and those are not located.
        return Dataset(folder, max_sequence_length=2) if has_windows(folder) else None

    @cached_property
    def _length(self) -> int:
        assert self._split is not None, "documents were found"
        return self._split.max_sequence_length

    @cached_property
    def _documents(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """First token of each document of the train split in its stream, in order, and the documents' ids."""
        file = self._folder / "documents.parquet"
        if self._split is None or not file.is_file() or not _cut_without_gaps(self._folder):
            raise InvalidInputError(
                "this dataset does not say which documents are in a window",
                field="documents",
                value=str(self._folder),
                remedy="Only prepared datasets with packing and without short_seq_prob do.",
            )
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise InvalidInputError(
                "reading documents.parquet needs pyarrow", field="documents", remedy="pip install pyarrow"
            ) from error
        table = pq.read_table(file, columns=["id", "start", "split"])
        starts = table["start"].fill_null(-1).to_numpy()
        rows = np.flatnonzero((starts >= 0) & (table["split"].to_numpy() == "train"))
        rows = rows[np.argsort(starts[rows], kind="stable")]
        ids = [
            name or f"row {row} of {file.name}"
            for row, name in zip(rows, table["id"].take(rows).to_pylist(), strict=True)
        ]
        return starts[rows], np.array(ids, dtype=object)


def _cut_without_gaps(folder: Path) -> bool:
    """Window w covers tokens wM to wM + M of the split's stream."""
    manifest = read_manifest(folder)
    asked = manifest.made_by.get("dataset") if manifest else None
    packing = asked.get("packing") if isinstance(asked, dict) else None
    if not isinstance(packing, dict):
        return False
    return packing.get("pack_sequences") is True and not packing.get("short_seq_prob")
