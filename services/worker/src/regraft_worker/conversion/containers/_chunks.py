"""Tensors that lie in HDF5 chunks, put together row by row without HDF5.

Chunks are cut out of the mapped file, so several threads can read at once. A block of rows rarely ends where chunks
do: the rows that were unpacked past its end are kept for the block that follows (one block's rest for each thread).

The trade-off: reading from back to front, or single rows at random, unpacks chunks again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regraft_worker.conversion.containers._filters import DamagedChunkError
from regraft_worker.conversion.containers._mapped import Mapped

Undo = Callable[[npt.NDArray[np.uint8], int], npt.NDArray[np.uint8]]
"""Unpack bytes of which so many shall come out."""

_MAX_REST_BYTES = 64 * 2**20

Values = npt.NDArray[Any]  # integers of as many bytes as the tensor has: bits are only moved


class Rest(threading.local):
    """The rows of one tensor that were unpacked and not yet asked for by this thread."""

    def __init__(self) -> None:
        self._kept: tuple[object, int, Values] | None = None

    def take(self, owner: object, start: int) -> Values | None:
        """What is kept from row `start` of `owner` on."""
        if self._kept is None or self._kept[0] is not owner or self._kept[1] != start:
            return None
        found, self._kept = self._kept[2], None
        return found

    def keep(self, owner: object, start: int, values: Values) -> None:
        if 0 < values.nbytes <= _MAX_REST_BYTES:
            self._kept = (owner, start, values.copy())


@dataclass(frozen=True, eq=False)
class Chunked:
    """One tensor; `at` has offset, size and mask of skipped filters for each chunk, in the order of rows."""

    mapped: Mapped
    rest: Rest
    dtype: torch.dtype
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    at: list[tuple[int, int, int]]
    undo: list[Undo]
    """For each filter, in the order in which they were applied."""

    @property
    def _integer(self) -> str:
        return f"<i{self.dtype.itemsize}"

    def read_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows in new memory; shape (stop - start, *shape[1:])."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.shape[0]}")
        step = self.chunk[0]
        kept = self.rest.take(self, start)
        first = start if kept is not None else start - start % step
        last = min(self.shape[0], -(-stop // step) * step)
        last = max(last, first + (0 if kept is None else len(kept)))
        values: Values = np.empty((last - first, *self.shape[1:]), dtype=self._integer)
        reached = 0
        if kept is not None:
            values[: len(kept)] = kept
            reached = len(kept)
        if reached < len(values):  # else the last chunk, cut off by the tensor's end, would be unpacked for nothing
            self._fill(values[reached:], first + reached)
        self.rest.keep(self, stop, values[stop - first :])
        return torch.from_numpy(values[start - first : stop - first]).view(self.dtype)

    def _fill(self, values: Values, first: int) -> None:
        """Unpack all chunks of whole bands of rows, `values` being those from row `first` on."""
        counts = [-(-size // step) for size, step in zip(self.shape, self.chunk, strict=True)]
        per_band = len(self.at) // counts[0]
        bands = range(first // self.chunk[0], -(-(first + len(values)) // self.chunk[0]))
        for band in bands:
            for inner, place in enumerate(product(*map(range, counts[1:]))):
                starts = [
                    band * self.chunk[0] - first,
                    *(n * step for n, step in zip(place, self.chunk[1:], strict=True)),
                ]
                target = values[
                    tuple(slice(start, start + step) for start, step in zip(starts, self.chunk, strict=True))
                ]
                target[...] = self._unpacked(band * per_band + inner)[tuple(map(slice, target.shape))]

    def _unpacked(self, number: int) -> Values:
        offset, size, skipped = self.at[number]
        content: npt.NDArray[np.uint8] = self.mapped.part(offset, offset + size).numpy()
        wanted = int(np.prod(self.chunk)) * self.dtype.itemsize
        for place in reversed(range(len(self.undo))):
            if not skipped >> place & 1:
                content = self.undo[place](content, wanted)
        if len(content) != wanted:
            raise DamagedChunkError(f"it has {len(content)} bytes, not {wanted}")
        return content.view(self._integer).reshape(self.chunk)
