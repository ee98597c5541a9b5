"""The data files a model is trained on: writing, checking and random reading.

One file holds `n` windows of `M` (max sequence length) tokens in the layout of the Cerebras Model Zoo's HDF5 tools,
which their readers and this project's trainer take alike:

    dataset `data`, int32, shape (n, 3, M), HDF5 chunks of (k, 3, M), filters shuffle and gzip
        [:, 0] input_ids
        [:, 1] attention_mask: really a loss mask, 1 where the label counts, 0 on padding
        [:, 2] labels: input_ids shifted by one on disk; the model does not shift
    root attribute `n_examples` = n
    files `examples_{file_no}_0.h5` flat in one folder (no sub-folders: foreign readers do not look into them)

The trade-off: a chunk holds the k windows that fit in 100 kB, a power of two, so that there are few B-tree entries and
zlib calls; a window that is read alone costs inflating its whole chunk. Not for text, nor for token streams without
windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from regraft.hdf5_chunks import DATASET, ROWS, Windows, is_direct, over_windows
from regraft.hdf5_reader import (
    FEATURES,
    SPAN_FEATURES,
    Dataset,
    ShardInfo,
    damaged,
    list_shards,
    mismatch,
    open_shard,
    read_rows,
    read_shard_info,
)
from regraft.hdf5_writer import COUNT, ShardWriter

__all__ = [
    "COUNT",
    "DATASET",
    "FEATURES",
    "INPUT_IDS",
    "LABELS",
    "MASK",
    "ROWS",
    "SPAN_FEATURES",
    "Dataset",
    "ShardInfo",
    "ShardWriter",
    "Windows",
    "list_shards",
    "read_rows",
    "read_shard_info",
    "validate_shard",
]

INPUT_IDS, MASK, LABELS = 0, 1, 2

_VALIDATION_BYTES = 64 * 2**20  # decoded at a time when a shard is checked


def validate_shard(path: Path, *, max_sequence_length: int, vocab_size: int, rows: int = ROWS) -> int:
    """Read ids, mask and labels of one file again and check each value; the number of labels that count (mask 1).

    Raises:
        InvalidDataError: naming the file, the dataset, what was expected and what was found.
    """
    info = read_shard_info(path)
    with open_shard(path) as file:
        if info.rows != rows:
            found = file[DATASET].shape
            raise mismatch(path, f"shape of dataset '{DATASET}'", expected=f"(examples, {rows}, length)", found=found)
        if COUNT not in file.attrs:
            raise mismatch(path, f"attribute '{COUNT}'", expected=info.examples, found="none")
        if info.dtype != "int32":
            raise mismatch(path, f"type of dataset '{DATASET}'", expected="int32", found=info.dtype)
        if info.max_sequence_length != max_sequence_length:
            expected = (info.examples, rows, max_sequence_length)
            raise mismatch(path, f"shape of dataset '{DATASET}'", expected=expected, found=file[DATASET].shape)
        step = max(1, _VALIDATION_BYTES // (4 * rows * max_sequence_length))
        check = partial(_validate_values, path, vocab_size=vocab_size)
        over = over_windows if is_direct(file[DATASET]) else _over_windows_by_hdf5
        parts = (slice(start, start + step) for start in range(0, info.examples, step))
        try:
            return sum(sum(over(check, file[DATASET], part)) for part in parts)
        except OSError as error:
            raise damaged(path, error) from error


def _over_windows_by_hdf5(work: Callable[[Windows], int], data: Any, part: slice) -> Iterator[int]:
    yield work(np.asarray(data[part], dtype=np.int32))


def _validate_values(path: Path, block: Windows, *, vocab_size: int) -> int:
    for row, name in ((INPUT_IDS, "input_ids"), (LABELS, "labels")):
        low, high = int(block[:, row].min()), int(block[:, row].max())
        if low < 0 or high >= vocab_size:
            found = f"{low} to {high}"
            raise mismatch(path, f"{name} in dataset '{DATASET}'", expected=f"0 to {vocab_size - 1}", found=found)
    mask = block[:, MASK]
    if mask.min() < 0 or mask.max() > 1:
        raise mismatch(path, f"mask in dataset '{DATASET}'", expected="0 and 1", found=np.unique(mask)[:5].tolist())
    return int(mask.sum())
