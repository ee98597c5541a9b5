"""A tensor that is read when it is asked for, and then only some rows of it.

Readers yield these, mappings wrap them, writers walk through their blocks: so a checkpoint of any size goes from one
format to another in memory for a few blocks. The trade-off: rows are along the first dimension only, so a transposition
cannot be expressed (none is needed between the formats here).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

BLOCK_BYTES = 32 * 2**20

ReadRows = Callable[[int, int], torch.Tensor]
"""Rows `start` to `stop` (excluded): shape (stop - start, *shape[1:]). A 0-d tensor is one row, shape (1,)."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """Name, type and shape are known; values are read by rows."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read_rows: ReadRows

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[torch.Tensor]:
        """All rows in order, in contiguous tensors of about `block_bytes`, at least one row each."""
        rows = self.shape[0] if self.shape else 1
        step = max(1, block_bytes // max(1, self.nbytes // max(1, rows)))
        for start in range(0, rows, step):
            yield self.read_rows(start, min(start + step, rows)).contiguous()

    def whole(self) -> torch.Tensor:
        """All of it, in memory."""
        return self.read_rows(0, self.shape[0] if self.shape else 1).reshape(self.shape)


def of_tensor(name: str, tensor: torch.Tensor) -> Lazy:
    """A tensor that is in memory (or mapped) already."""
    flat = tensor.reshape(1) if tensor.dim() == 0 else tensor
    return Lazy(name, tensor.dtype, tuple(tensor.shape), lambda start, stop: flat[start:stop])
