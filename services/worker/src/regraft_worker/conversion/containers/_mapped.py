"""A file mapped into memory, and tensors whose rows are parts of it.

Handing out rows copies nothing: 3 GB/s on two cores where reading into new memory makes 0.8. Each thread gives the
pages of the rows it read before back to the system when it asks for the next ones, so memory in use stays at a block
for each. Rows handed out earlier stay valid (their pages come back from the file), but must not be written into.

The trade-off: a file that is cut short while it is read kills the process with SIGBUS, where a read would have failed.
"""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import torch

from regraft_worker.conversion.containers.base import UNREADABLE, refused
from regraft_worker.conversion.lazy import Lazy, ReadRows

# Private and writable because torch takes no other memory without a warning; unreserved, or the kernel would refuse
# to map a file larger than the memory of the machine.
_MAP_NORESERVE = 0x4000
_FLAGS = mmap.MAP_PRIVATE | _MAP_NORESERVE
_MASK = mmap.PAGESIZE - 1


class Mapped:
    """All bytes of an open file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self.size = os.fstat(descriptor).st_size
        try:
            pages = mmap.mmap(descriptor, self.size, flags=_FLAGS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise refused(path, UNREADABLE, f"it cannot be mapped ({error})") from error
        self._pages: mmap.mmap | None = pages
        self._bytes = torch.frombuffer(pages, dtype=torch.uint8)
        self._behind = threading.local()

    def part(self, begin: int, end: int) -> torch.Tensor:
        """Bytes `begin` to `end`, shape (end - begin,) uint8; what this thread asked for before is given back."""
        if self._pages is None:
            raise ValueError(f"{self._path.name} is closed")
        if not 0 <= begin <= end <= self.size:
            raise refused(self._path, UNREADABLE, f"bytes {begin} to {end} are not all there, it has {self.size}")
        self._give_back(self._pages, begin, end)
        return self._bytes[begin:end]

    def close(self) -> None:
        """The mapping itself goes with the last tensor that is a part of it."""
        self._pages = None
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def _give_back(self, pages: mmap.mmap, begin: int, end: int) -> None:
        first, last = getattr(self._behind, "span", (0, 0))
        if begin < last and first < end:  # read again, or strided over: still in use
            first, last = min(first, begin), max(last, end)
        else:
            start, stop = first & ~_MASK, last & ~_MASK
            if start < stop:
                pages.madvise(mmap.MADV_DONTNEED, start, stop - start)
            first, last = begin, end
        self._behind.span = (first, last)


def dense(
    mapped: Mapped, name: str, *, dtype: torch.dtype, shape: tuple[int, ...], begin: int, swap: bool = False
) -> Lazy:
    """A tensor whose values lie side by side from byte `begin`; `swap`: they are big-endian."""
    row = dtype.itemsize
    for size in shape[1:]:
        row *= size

    def read_rows(start: int, stop: int) -> torch.Tensor:
        found = _typed(mapped.part(begin + start * row, begin + stop * row), dtype, swap=swap)
        return found.reshape(stop - start, *shape[1:])

    return Lazy(name, dtype, shape, _bounded(read_rows, shape))


def strided(
    mapped: Mapped,
    name: str,
    *,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    begin: int,
    swap: bool = False,
) -> Lazy:
    """A tensor whose first value is at byte `begin` and the others by strides, which are checked already."""
    if is_dense(shape, stride):
        return dense(mapped, name, dtype=dtype, shape=shape, begin=begin, swap=swap)
    reach = sum((size - 1) * step for size, step in zip(shape[1:], stride[1:], strict=True)) + 1

    def read_rows(start: int, stop: int) -> torch.Tensor:
        first, last = start * stride[0], (stop - 1) * stride[0] + reach
        values = _typed(mapped.part(begin + first * dtype.itemsize, begin + last * dtype.itemsize), dtype, swap=swap)
        return torch.as_strided(values, (stop - start, *shape[1:]), stride, values.storage_offset())

    return Lazy(name, dtype, shape, _bounded(read_rows, shape))


def is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """True when the values lie side by side in order."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return 0 in shape
        expected *= size
    return True


def _bounded(read_rows: ReadRows, shape: tuple[int, ...]) -> ReadRows:
    rows = shape[0] if shape else 1

    def checked(start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"rows {start} to {stop} of {rows}")
        return read_rows(start, stop)

    return checked


def _typed(content: torch.Tensor, dtype: torch.dtype, *, swap: bool) -> torch.Tensor:
    if swap:
        return content.reshape(-1, dtype.itemsize).flip(1).reshape(-1).view(dtype)
    if content.storage_offset() % dtype.itemsize:  # torch reads no value across its boundary
        content = content.clone()
    return content.view(dtype)
