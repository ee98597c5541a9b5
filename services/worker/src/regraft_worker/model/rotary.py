"""Rotary position embedding on the leading dimensions of each attention head.

Position p turns the i-th pair of dimensions by the angle p * theta^(-2i / rotary_dim). Which dimensions form a pair is
a convention that checkpoints depend on and that no shape reveals: GPT-J pairs neighbours (2i, 2i+1), GPT-NeoX pairs
halves (i, i + rotary_dim / 2). A wrong pairing still trains and still gives sensible looking, worse logits.

The table is computed anew for each forward pass: it is S * rotary_dim numbers, far less than one layer's work, and it
keeps the module free of buffers that would have to be saved, moved or left out of `state_dict()`. Of scaled embeddings
it has the linear kind, which divides positions by a factor; the family tables refuse checkpoints of any other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class RotaryTable(NamedTuple):
    """Cosine and sine of every angle, each (1 or B, S, 1, rotary_dim / 2), in fp32: bf16 cannot tell 511 from 512."""

    cos: Tensor
    sin: Tensor


def rotary_table(positions: Tensor, rotary_dim: int, *, theta: float, scaling: float = 1.0) -> RotaryTable:
    """The angles of these positions, (S,) or (B, S), each divided by `scaling`."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=positions.device) / rotary_dim  # (R/2,)
    frequency = 1.0 / theta**exponent
    angle = (positions.float() / scaling)[..., None] * frequency  # (S, R/2) or (B, S, R/2)
    angle = angle.view(-1, positions.shape[-1], 1, angle.shape[-1])
    return RotaryTable(angle.cos(), angle.sin())


def rotate(x: Tensor, table: RotaryTable, *, interleaved: bool) -> Tensor:
    """Turn the first R dimensions of each head of `x` (B, S, heads, head_dim); the others pass unchanged."""
    turned: Tensor = _Rotate.apply(x, table.cos, table.sin, interleaved)  # type: ignore[no-untyped-call]
    return turned


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back, so nothing of `x` is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _turn(x, cos, sin, interleaved)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin, ctx.interleaved), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    R = 2 * cos.shape[-1]
    out = x.clone(memory_format=torch.contiguous_format)
    if interleaved:
        (a, b), (real, imag) = ((t[..., 0:R:2], t[..., 1:R:2]) for t in (x, out))
    else:
        (a, b), (real, imag) = ((t[..., : R // 2], t[..., R // 2 : R]) for t in (x, out))
    # Complex multiplication (a + ib)(cos + i sin), in fp32 because the table is.
    real.copy_(a * cos - b * sin)
    imag.copy_(b * cos + a * sin)
    return out
