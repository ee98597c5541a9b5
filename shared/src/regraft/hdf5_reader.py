"""Reading the data files a model is trained on, those of the reference tools too. For users as `regraft.hdf5.Dataset`.

Three layouts of the dataset `data`, told apart by its shape, in any HDF5 chunks and of any integer type:

    (n, 3, M)   windows: input_ids, attention_mask, labels
    (n, 5, M)   the same with attention_span and position_ids
    (tokens,)   a stream without windows; all files of a folder are one stream, cut into windows when it is read

A `data_params.json` beside the files may list its rows in another order as `features`; what is read always has them in
the order above. File names do not matter but for their order, in which numbers count as numbers.

The trade-off: rows that lie side by side are one read, single ones a read each, so a random order costs one HDF5 call
per window. Not for text, nor for files whose layout differs within a folder.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft.hdf5_chunks import DATASET, ROWS, Windows
from regraft.hdf5_writer import COUNT

FEATURES = ("input_ids", "attention_mask", "labels")
SPAN_FEATURES = (*FEATURES, "attention_span", "position_ids")

_LAYOUTS = {len(features): features for features in (FEATURES, SPAN_FEATURES)}
_MAX_OPEN_FILES = 128  # well below the usual limit of 1,024 descriptors per process

Rows = Sequence[int] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What the head of one file says."""

    path: Path
    examples: int
    """Windows; of a token stream, its tokens."""
    max_sequence_length: int
    """0 in a token stream."""
    dtype: str
    rows: int = ROWS
    """Rows of a window, 3 or 5; 0: a token stream."""


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
    with open_shard(path) as file:
        data = _dataset(path, file)
        if data.ndim == 1:
            return ShardInfo(path, int(data.shape[0]), 0, str(data.dtype), rows=0)
        count = file.attrs.get(COUNT, data.shape[0])
        if int(count) != data.shape[0]:
            raise mismatch(path, f"attribute '{COUNT}'", expected=data.shape[0], found=int(count))
        return ShardInfo(path, int(data.shape[0]), int(data.shape[2]), str(data.dtype), int(data.shape[1]))


def read_rows(path: Path, rows: Rows) -> Windows:
    """Windows `rows` of one file, in the order asked for and as they lie there; shape (len(rows), 3 or 5, M)."""
    info = read_shard_info(path)
    if info.rows == 0:
        raise mismatch(path, f"shape of dataset '{DATASET}'", expected="windows", found=f"({info.examples},)")
    files = _Files([info])
    try:
        return _gather(rows, size=info.examples, shape=(info.rows, info.max_sequence_length), read=files.span)
    finally:
        files.close()


class Dataset:
    """All files of a folder as one array of windows with global row numbers, in the order of `list_shards`.

    Map-style: `len(dataset)` and `dataset[row]`; `rows` reads many at once, which is faster. A token stream of T tokens
    has (T - 1) // M windows, window i being tokens i * M to i * M + M, the last of which is only a label.

    Files are opened when first needed and kept open (the 128 used last). Not to be shared between processes: an HDF5
    handle does not survive a fork, so each data loading process makes its own.
    """

    def __init__(self, folder: Path, *, max_sequence_length: int | None = None) -> None:
        """`max_sequence_length`: what a token stream is cut into; files with windows have their own."""
        self.shards = [read_shard_info(path) for path in list_shards(folder)]
        first = _checked_alike(self.shards)
        self.is_stream = first.rows == 0
        self.max_sequence_length = _window_length(first, max_sequence_length)
        self.features = _LAYOUTS.get(first.rows, FEATURES)
        """What the rows of a window are, in the order in which they are read."""
        self.order = None if self.is_stream else _order_on_disk(folder, self.features)
        """Where these rows lie on disk, on axis 1; None: in the same order."""
        self._files = _Files(self.shards)

    def __len__(self) -> int:
        total = self._files.total
        return max(0, total - 1) // self.max_sequence_length if self.is_stream else total

    def __getitem__(self, row: int) -> Windows:
        """One window; shape (3 or 5, M) int32."""
        window: Windows = self.rows([row])[0]
        return window

    def rows(self, indices: Rows) -> Windows:
        """Windows by global row number, in the order asked for; shape (len(indices), 3 or 5, M) int32.

        Raises:
            IndexError: a number is negative or at least `len(self)`.
        """
        shape = (len(self.features), self.max_sequence_length)
        return _gather(indices, size=len(self), shape=shape, read=self._cut if self.is_stream else self._windows)

    def close(self) -> None:
        """Close all files. Reading again opens them again."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _windows(self, start: int, end: int) -> npt.NDArray[Any]:
        found = self._files.span(start, end)
        return found if self.order is None else found[:, self.order]

    def _cut(self, start: int, end: int) -> npt.NDArray[Any]:
        length = self.max_sequence_length
        tokens = self._files.span(start * length, end * length + 1)  # neighbours share a token
        ids, labels = tokens[:-1].reshape(-1, length), tokens[1:].reshape(-1, length)
        return np.stack([ids, np.ones_like(ids), labels], axis=1)


class _Files:
    """Several files as one array along their first axis."""

    def __init__(self, shards: Sequence[ShardInfo]) -> None:
        self._shards = shards
        self._ends = np.cumsum([shard.examples for shard in shards])
        self.total = int(self._ends[-1])
        self._open: OrderedDict[int, h5py.Dataset] = OrderedDict()

    def span(self, start: int, end: int) -> npt.NDArray[Any]:
        """Items `start` up to `end`, from as many files as they lie in; there is at least one."""
        parts = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < end:
            begin, stop = int(self._ends[number]) - self._shards[number].examples, min(end, int(self._ends[number]))
            parts.append(self._read(number, slice(start - begin, stop - begin)))
            start, number = stop, number + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].file.close()

    def _read(self, number: int, part: slice) -> npt.NDArray[Any]:
        try:
            found: npt.NDArray[Any] = self._handle(number)[part]
        except OSError as error:
            raise damaged(self._shards[number].path, error) from error
        return found

    def _handle(self, number: int) -> h5py.Dataset:
        # The dataset and not its file: looking it up by name costs more than reading a window.
        if number not in self._open:
            if len(self._open) >= _MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].file.close()
            self._open[number] = open_shard(self._shards[number].path)[DATASET]
        self._open.move_to_end(number)
        return self._open[number]


def open_shard(path: Path) -> h5py.File:
    """The file, open for reading.

    Raises:
        InvalidDataError: it is not there, or not HDF5.
    """
    if not path.is_file():
        raise InvalidDataError("a data file is missing", value=str(path), reason="corrupt_artifact")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise damaged(path, error) from error


def mismatch(path: Path, what: str, *, expected: object, found: object) -> InvalidDataError:
    """The error for a file that is not in the layout."""
    return InvalidDataError(
        f"{what}: expected {expected}, found {found}",
        value=str(path),
        remedy="Prepare the dataset again, or convert it to the layout (n, 3, length) int32 with gzip.",
        reason="invalid_dataset",
    )


def damaged(path: Path, error: OSError) -> InvalidDataError:
    """The error for a file whose bytes HDF5 cannot read."""
    return InvalidDataError(
        f"this file cannot be read as HDF5 ({error})",
        value=str(path),
        remedy="Prepare the dataset again.",
        reason="corrupt_artifact",
    )


def _natural(name: str) -> list[tuple[int, str]]:
    # Odd pieces are digits: "a_10.h5" -> [(0, "a_"), (10, ""), (0, ".h5")]
    pieces = re.split(r"(\d+)", name)
    return [(int(piece), "") if number % 2 else (0, piece) for number, piece in enumerate(pieces)]


def _dataset(path: Path, file: h5py.File) -> Any:
    data = file.get(DATASET)
    if not isinstance(data, h5py.Dataset):
        raise mismatch(path, f"dataset '{DATASET}'", expected="a dataset", found=f"only {sorted(file)}")
    if data.ndim != 1 and (data.ndim != 3 or data.shape[1] not in _LAYOUTS):
        expected = "(examples, 3, length), (examples, 5, length) or (tokens,)"
        raise mismatch(path, f"shape of dataset '{DATASET}'", expected=expected, found=data.shape)
    if data.dtype.kind not in "iu":
        raise mismatch(path, f"type of dataset '{DATASET}'", expected="integers", found=data.dtype)
    return data


def _checked_alike(shards: Sequence[ShardInfo]) -> ShardInfo:
    """The first one; the others differ from it in nothing but their number of examples."""
    first = shards[0]
    for shard in shards:
        for name, what in (("rows", "rows of a window"), ("max_sequence_length", "max sequence length")):
            expected, found = getattr(first, name), getattr(shard, name)
            if found != expected:
                raise mismatch(shard.path, f"{what}, as in {first.path.name}", expected=expected, found=found)
        if shard.dtype != first.dtype:
            what = f"type of dataset '{DATASET}', as in {first.path.name}"
            raise mismatch(shard.path, what, expected=first.dtype, found=shard.dtype)
    return first


def _window_length(first: ShardInfo, asked: int | None) -> int:
    if first.rows:
        return first.max_sequence_length
    if asked is None:
        raise InvalidDataError(
            "this file is a stream of tokens without windows",
            value=str(first.path),
            remedy="Say how long a window shall be (training.max_sequence_length).",
            reason="invalid_dataset",
        )
    return asked


def _order_on_disk(folder: Path, features: tuple[str, ...]) -> list[int] | None:
    """Where the rows of a window lie on axis 1; None: in order."""
    path = folder / "data_params.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no UTF-8
        raise mismatch(path, "content", expected="JSON", found=str(error)) from error
    listed = content.get("features") if isinstance(content, dict) else None
    if listed is None or listed == list(features):
        return None
    if not isinstance(listed, list) or sorted(map(str, listed)) != sorted(features):
        raise mismatch(path, "features", expected=f"{', '.join(features)} in some order", found=listed)
    return [listed.index(name) for name in features]


def _gather(rows: Rows, *, size: int, shape: tuple[int, int], read: Callable[[int, int], npt.NDArray[Any]]) -> Windows:
    """Rows in any order, from `read(start, end)`, which is called once for neighbouring ones, in ascending order.

    h5py's own list indexing is slower and takes no repetitions.
    """
    unique, places = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
    outside = unique[(unique < 0) | (unique >= size)]
    if outside.size:
        raise IndexError(f"row {outside[0]} of {size}")
    found = np.empty((len(unique), *shape), dtype=np.int32)
    for part in _runs(unique):
        found[part] = read(int(unique[part.start]), int(unique[part.stop - 1]) + 1)
    return found[places]


def _runs(unique: npt.NDArray[np.int64]) -> Iterator[slice]:
    starts = np.flatnonzero(np.diff(unique, prepend=-2) != 1)
    return map(slice, starts, [*starts[1:], len(unique)])
