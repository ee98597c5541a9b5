"""Equality of tensors bit for bit: 0.0 and -0.0 differ, equal NaNs do not."""

from __future__ import annotations

import torch

from regraft_worker.conversion.lazy import Lazy


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """True when dtype, shape and every bit agree."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(bits(left), bits(right))


def same_values(left: Lazy, right: Lazy) -> bool:
    """The same for tensors that are read block by block; their names may differ."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return all(same_bits(a, b) for a, b in zip(left.blocks(), right.blocks(), strict=True))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """All bytes in order, shape (n,) uint8; of a contiguous tensor not copied."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
