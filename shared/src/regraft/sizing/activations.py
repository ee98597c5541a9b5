"""Bytes of activations that the decoder keeps for its backward pass, counted tensor by tensor.

A test compares the count with what autograd really saves. Shapes: as in `memory`; R rows = B * S.
"""

from __future__ import annotations

from regraft.families import Architecture
from regraft.sizing.setup import Setup

_SCORE = 13  # bytes: softmax, mask and product of one attention score with dropout on a CPU; counted, not derived
_STREAM = 4  # bytes: the residual stream is fp32 whatever matrices are multiplied in


def block_bytes(a: Architecture, setup: Setup, rows: int, *, on_cpu: bool) -> int:
    """What one block keeps for `rows` tokens when nothing of it is computed again."""
    streams = 1 if a.parallel_residual else 2
    # q, k, v, and what attention gives twice, per head and joined; the inner values before and after the activation.
    products = (5 + _normed(a)) * a.hidden_size + 2 * a.filter_size
    kept = rows * (_STREAM * streams * a.hidden_size + _width(setup) * products)
    return kept + _dropout_bytes(a, setup, rows, on_cpu=on_cpu)


def kept_bytes(a: Architecture, setup: Setup, rows: int, *, on_cpu: bool) -> int:
    """What all blocks keep until the backward pass, and what computing one of them again adds."""
    ends = 2 * rows * _STREAM * a.hidden_size  # into and out of the last norm
    again = recomputed_blocks(a, setup)
    whole = max(1, a.num_layers - again)
    block = block_bytes(a, setup, rows, on_cpu=on_cpu)
    return whole * block + again * rows * _STREAM * a.hidden_size + ends


def recomputed_blocks(a: Architecture, setup: Setup) -> int:
    """Blocks that keep their input only: all, or every second one."""
    return {"none": 0, "selective": -(-a.num_layers // 2), "full": a.num_layers}[setup.checkpointing]


def _width(setup: Setup) -> int:
    return 4 if setup.precision == "fp32" else 2


def _normed(a: Architecture) -> int:
    """Copies of the norms' outputs: the projections of one input share it, in the precision they compute in."""
    return 2 if a.separate_ffn_norm else 1


def _dropout_bytes(a: Architecture, setup: Setup, rows: int, *, on_cpu: bool) -> int:
    """Masks: a byte an element on a GPU, a number on a CPU, where attention with dropout also keeps its scores."""
    if not setup.dropout:
        return 0
    branches = 2 * rows * a.hidden_size
    scores = _SCORE * rows * setup.length * a.num_heads if on_cpu else 0
    return branches * (_width(setup) if on_cpu else 1) + scores
