"""The data files a model is trained on: writing, checking and random reading.

One file holds `n` windows of `M` (max sequence length) tokens in the layout of the Cerebras Model Zoo's HDF5 tools,
which their readers and this project's trainer take alike:

    dataset `data`, int32, shape (n, 3, M), HDF5 chunks of (1, 3, M), filters shuffle and gzip
        [:, 0] input_ids
        [:, 1] attention_mask: really a loss mask, 1 where the label counts, 0 on padding
        [:, 2] labels: input_ids shifted by one on disk; the model does not shift
    root attribute `n_examples` = n
    files `examples_{file_no}_0.h5` flat in one folder (no sub-folders: foreign readers do not look into them)

The trade-off: one chunk per window costs a B-tree entry and a zlib call each, and buys random access to any window
at the price of that window. Not for text, nor for token streams without windows.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft.hdf5_chunks import DATASET, ROWS, Windows, is_direct, over_windows
from regraft.hdf5_writer import COUNT, ShardWriter

__all__ = [
    "COUNT",
    "DATASET",
    "INPUT_IDS",
    "LABELS",
    "MASK",
    "ROWS",
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

_MAX_OPEN_FILES = 128  # well below the usual limit of 1,024 descriptors per process
_VALIDATION_BYTES = 64 * 2**20  # decoded at a time when a shard is checked


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What the head of one file says."""

    path: Path
    examples: int
    max_sequence_length: int
    dtype: str


def list_shards(folder: Path) -> list[Path]:
    """The `.h5` files directly in `folder`, numbers in names compared as numbers (2 before 10).

    Raises:
        InvalidDataError: there are none.
    """
    paths = sorted(folder.glob("*.h5"), key=lambda path: _natural(path.name))
    if not paths:
        raise InvalidDataError(
            "there are no .h5 files in this folder",
            value=str(folder),
            remedy="Name the folder that holds the files themselves, such as <dataset>/train.",
            reason="dataset_empty",
        )
    return paths


def read_shard_info(path: Path) -> ShardInfo:
    """Head of one file, checked for the layout but not for its values.

    Any integer type is accepted, since other tools' files may have one; `validate_shard` insists on int32.

    Raises:
        InvalidDataError: not HDF5, or another layout.
    """
    with _open_shard(path) as file:
        data = _dataset(path, file)
        count = file.attrs.get(COUNT, data.shape[0])
        if int(count) != data.shape[0]:
            raise _mismatch(path, f"attribute '{COUNT}'", expected=data.shape[0], found=int(count))
        return ShardInfo(path, int(data.shape[0]), int(data.shape[2]), str(data.dtype))


def validate_shard(path: Path, *, max_sequence_length: int, vocab_size: int) -> int:
    """Read every value of one file again and check it; the number of labels that count (mask 1).

    Raises:
        InvalidDataError: naming the file, the dataset, what was expected and what was found.
    """
    info = read_shard_info(path)
    with _open_shard(path) as file:
        if COUNT not in file.attrs:
            raise _mismatch(path, f"attribute '{COUNT}'", expected=info.examples, found="none")
        if info.dtype != "int32":
            raise _mismatch(path, f"type of dataset '{DATASET}'", expected="int32", found=info.dtype)
        if info.max_sequence_length != max_sequence_length:
            expected = (info.examples, ROWS, max_sequence_length)
            raise _mismatch(path, f"shape of dataset '{DATASET}'", expected=expected, found=file[DATASET].shape)
        step = max(1, _VALIDATION_BYTES // (4 * ROWS * max_sequence_length))
        check = partial(_validate_values, path, vocab_size=vocab_size)
        over = over_windows if is_direct(file[DATASET]) else _over_windows_by_hdf5
        parts = (slice(start, start + step) for start in range(0, info.examples, step))
        try:
            return sum(sum(over(check, file[DATASET], part)) for part in parts)
        except OSError as error:
            raise _damaged(path, error) from error


def read_rows(path: Path, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Windows:
    """Windows `rows` of one file, in the order asked for; shape (len(rows), 3, M)."""
    with _open_shard(path) as file:
        return _read(path, _dataset(path, file), np.asarray(rows, dtype=np.int64))


class Dataset:
    """All files of a folder as one array of windows with global row numbers, in the order of `list_shards`.

    Files are opened when first needed and kept open (the 128 used last). Not to be shared between processes: an HDF5
    handle does not survive a fork, so each data loading process makes its own.
    """

    def __init__(self, folder: Path) -> None:
        self.shards = [read_shard_info(path) for path in list_shards(folder)]
        self.max_sequence_length = self.shards[0].max_sequence_length
        for shard in self.shards:
            if shard.max_sequence_length != self.max_sequence_length:
                found = shard.max_sequence_length
                raise _mismatch(shard.path, "max sequence length", expected=self.max_sequence_length, found=found)
        self._ends = np.cumsum([shard.examples for shard in self.shards])
        self._files: OrderedDict[int, h5py.File] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Windows:
        """Windows by global row number, in the order asked for; shape (len(indices), 3, M) int32.

        Raises:
            IndexError: a number is negative or at least `len(self)`.
        """
        wanted = _checked(np.asarray(indices, dtype=np.int64), size=len(self))
        result = np.empty((len(wanted), ROWS, self.max_sequence_length), dtype=np.int32)
        owners = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(owners):
            places = np.flatnonzero(owners == number)
            shard = self.shards[number]
            local = wanted[places] - (self._ends[number] - shard.examples)
            result[places] = _read(shard.path, self._handle(int(number))[DATASET], local)
        return result

    def close(self) -> None:
        """Close all files. Reading again opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _handle(self, number: int) -> h5py.File:
        if number not in self._files:
            if len(self._files) >= _MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[number] = _open_shard(self.shards[number].path)
        self._files.move_to_end(number)
        return self._files[number]


def _natural(name: str) -> list[tuple[int, str]]:
    # Odd pieces are digits: "a_10.h5" -> [(0, "a_"), (10, ""), (0, ".h5")]
    pieces = re.split(r"(\d+)", name)
    return [(int(piece), "") if number % 2 else (0, piece) for number, piece in enumerate(pieces)]


def _open_shard(path: Path) -> h5py.File:
    if not path.is_file():
        raise InvalidDataError("a data file is missing", value=str(path), reason="corrupt_artifact")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _damaged(path, error) from error


def _dataset(path: Path, file: h5py.File) -> Any:
    data = file.get(DATASET)
    if not isinstance(data, h5py.Dataset):
        raise _mismatch(path, f"dataset '{DATASET}'", expected="a dataset", found=f"only {sorted(file)}")
    if data.ndim != 3 or data.shape[1] != ROWS:
        raise _mismatch(path, f"shape of dataset '{DATASET}'", expected="(examples, 3, length)", found=data.shape)
    if data.dtype.kind not in "iu":
        raise _mismatch(path, f"type of dataset '{DATASET}'", expected="integers", found=data.dtype)
    return data


def _checked(rows: npt.NDArray[np.int64], *, size: int) -> npt.NDArray[np.int64]:
    outside = rows[(rows < 0) | (rows >= size)]
    if outside.size:
        raise IndexError(f"row {outside[0]} of {size}")
    return rows


def _read(path: Path, data: Any, rows: npt.NDArray[np.int64]) -> Windows:
    """Neighbouring rows in one read each: h5py's own list indexing is slower and takes no repetitions."""
    unique, places = np.unique(_checked(rows, size=data.shape[0]), return_inverse=True)
    result = np.empty((len(unique), *data.shape[1:]), dtype=np.int32)
    starts = np.flatnonzero(np.diff(unique, prepend=-2) != 1)
    for start, end in zip(starts, [*starts[1:], len(unique)], strict=True):
        try:
            result[start:end] = data[unique[start] : unique[end - 1] + 1]
        except OSError as error:
            raise _damaged(path, error) from error
    return result[places]


def _over_windows_by_hdf5(work: Callable[[Windows], int], data: Any, part: slice) -> Iterator[int]:
    yield work(np.asarray(data[part], dtype=np.int32))


def _validate_values(path: Path, block: Windows, *, vocab_size: int) -> int:
    for row, name in ((INPUT_IDS, "input_ids"), (LABELS, "labels")):
        low, high = int(block[:, row].min()), int(block[:, row].max())
        if low < 0 or high >= vocab_size:
            found = f"{low} to {high}"
            raise _mismatch(path, f"{name} in dataset '{DATASET}'", expected=f"0 to {vocab_size - 1}", found=found)
    mask = block[:, MASK]
    if mask.min() < 0 or mask.max() > 1:
        raise _mismatch(path, f"mask in dataset '{DATASET}'", expected="0 and 1", found=np.unique(mask)[:5].tolist())
    return int(mask.sum())


def _mismatch(path: Path, what: str, *, expected: object, found: object) -> InvalidDataError:
    return InvalidDataError(
        f"{what}: expected {expected}, found {found}",
        value=str(path),
        remedy="Prepare the dataset again, or convert it to the layout (n, 3, length) int32 with gzip.",
        reason="invalid_dataset",
    )


def _damaged(path: Path, error: OSError) -> InvalidDataError:
    return InvalidDataError(
        f"this file cannot be read as HDF5 ({error})",
        value=str(path),
        remedy="Prepare the dataset again.",
        reason="corrupt_artifact",
    )
