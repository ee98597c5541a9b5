"""The bits of tensors: equality (0.0 and -0.0 differ, equal NaNs do not), digests, and whether they are numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from regraft_worker.conversion.lazy import Lazy

_WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """True when dtype, shape and every bit agree."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    left, right = bits(left), bits(right)
    # The widest integers that both can be seen as: torch compares bytes seven times slower than words of eight.
    word = next(word for word in _WORDS if _fits(left, word) and _fits(right, word))
    return torch.equal(left.view(word), right.view(word))


def same_values(left: Lazy, right: Lazy) -> bool:
    """The same for tensors that are read block by block; their names may differ."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return all(same_bits(a, b) for a, b in zip(left.blocks(), right.blocks(), strict=True))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """All bytes in order, shape (n,) uint8; of a contiguous tensor not copied."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def is_finite(block: torch.Tensor) -> bool:
    """True when every value is a number; of no floating point, always."""
    if not block.is_floating_point() or not block.numel():
        return True
    # A NaN comes out as both extremes; unlike `isfinite` this needs no memory of the block's size.
    low, high = torch.aminmax(block)
    return bool(torch.isfinite(low) and torch.isfinite(high))


def digest(lazy: Lazy, tick: Callable[[int], object] = lambda count: None) -> str:
    """sha256 of the raw little-endian bytes; `tick` is told of those of each block."""
    sha256 = hashlib.sha256()
    for block in lazy.blocks():
        sha256.update(bits(block).numpy())
        tick(block.nbytes)
    return sha256.hexdigest()


def _fits(content: torch.Tensor, word: torch.dtype) -> bool:
    return not (len(content) % word.itemsize or content.storage_offset() % word.itemsize)
