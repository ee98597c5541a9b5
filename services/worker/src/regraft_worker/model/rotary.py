"""Rotary position embedding on the leading dimensions of each attention head.

Position p turns the i-th pair of dimensions by the angle p * theta^(-2i / rotary_dim). Which dimensions form a pair is
a convention that checkpoints depend on and that no shape reveals: GPT-J pairs neighbours (2i, 2i+1), GPT-NeoX pairs
halves (i, i + rotary_dim / 2). A wrong pairing still trains and still gives sensible looking, worse logits.

The table is computed anew for each forward pass: it is S * rotary_dim numbers, far less than one layer's work, and it
keeps the module free of buffers that would have to be saved, moved or left out of `state_dict()`. Of scaled embeddings
it has the linear kind, which divides positions by a factor; the family tables refuse checkpoints of any other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RotaryTable(NamedTuple):
    """Cosine and sine of every angle, each (S, rotary_dim / 2), in fp32: bf16 cannot tell position 511 from 512."""

    cos: Tensor
    sin: Tensor


def rotary_table(
    length: int, rotary_dim: int, *, theta: float, scaling: float = 1.0, device: torch.device
) -> RotaryTable:
    """The angles of positions 0 .. length - 1, each divided by `scaling`."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim  # (R/2,)
    frequency = 1.0 / theta**exponent
    position = torch.arange(length, dtype=torch.float32, device=device) / scaling  # (S,)
    angle = torch.outer(position, frequency)  # (S, R/2)
    return RotaryTable(angle.cos(), angle.sin())


def rotate(x: Tensor, table: RotaryTable, *, interleaved: bool) -> Tensor:
    """Turn the first R dimensions of each head of `x` (B, heads, S, head_dim); the others pass unchanged."""
    R = 2 * table.cos.shape[-1]
    turned, rest = x[..., :R], x[..., R:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned.chunk(2, dim=-1)
    # Complex multiplication (a + ib)(cos + i sin), in fp32 because the table is.
    real = a * table.cos - b * table.sin
    imag = b * table.cos + a * table.sin
    out = torch.stack((real, imag), dim=-1).flatten(-2) if interleaved else torch.cat((real, imag), dim=-1)
    return torch.cat((out.to(x.dtype), rest), dim=-1)
