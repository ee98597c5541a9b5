"""Proof that two sides of a conversion compute the same: logits and loss on a fixed batch, through all layers.

Equal digests say that nothing was lost; they do not say that rows went where the other side looks for them, because a
wrong permutation survives the way there and back. So each side computes with its own tensors: Hugging Face's by this
project's decoder, Cerebras' by the same decoder with rotary pairs as Cerebras has them, and no tensor by way of the
converter that is to be proven. Weights are streamed, so a model of any size is compared whole, and in fp32.

The limit: at weights as small as those of an untrained model (a deviation of 0.02) wrong rotary rows change the logits
by little; a trained model's do not hide them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft.errors import InvalidDataError
from regraft.families import Architecture
from regraft_worker.conversion.side import Side
from regraft_worker.conversion.streamed import streamed

TOLERANCE = 1e-5
"""Of the largest logit, or of 1 when that is smaller."""
_SEQUENCES, _LENGTH = 2, 32
_STRIDE = 7919  # a prime beyond the small factors of vocabularies: few ids come twice


class Output(NamedTuple):
    """What a model makes of the batch."""

    ids: torch.Tensor
    """(B, S) int64."""
    logits: torch.Tensor
    """(B, S, V) fp32."""
    loss: float
    """Mean cross entropy of each next id, the last one followed by the first."""
    positions: torch.Tensor | None = None
    """(B, S) int64; 0, 1, 2, ... when there are none."""


def run_side(side: Side, tick: Callable[[int], None]) -> Output:
    """Compute with one side's own tensors; each of them is read once."""
    architecture, own = side.own()
    ids = batch(architecture)
    return output_of(ids, streamed(architecture, own, tick)(ids))


def batch(architecture: Architecture) -> torch.Tensor:
    """The fixed ids, (B, S)."""
    length = min(_LENGTH, architecture.max_position_embeddings)
    numbers = torch.arange(_SEQUENCES * length) * _STRIDE + 1
    return (numbers % architecture.vocab_size).reshape(_SEQUENCES, length)


def output_of(ids: torch.Tensor, logits: torch.Tensor, positions: torch.Tensor | None = None) -> Output:
    """Logits with their loss."""
    labels = ids.roll(-1, dims=1).flatten()
    loss = F.cross_entropy(logits.flatten(0, 1).double(), labels)
    return Output(ids, logits, float(loss), positions)


def compare_outputs(
    expected: Output, found: Output, *, tolerance: float = TOLERANCE, names: tuple[str, str] = ("source", "result")
) -> dict[str, object]:
    """What was compared, and by how much it differs.

    Raises:
        InvalidDataError: by more than the tolerance, or the numbers are not finite.
    """
    scale = max(1.0, float(expected.logits.abs().max()))
    apart = float((expected.logits - found.logits).abs().max())
    if not (apart <= tolerance * scale and abs(expected.loss - found.loss) <= tolerance * scale):
        raise InvalidDataError(
            f"{names[1]} and {names[0]} compute different logits: by up to {apart:.3g}, "
            f"where {tolerance * scale:.3g} is allowed",
            field="checkpoint",
            value=apart,
            remedy="Report this together with the checkpoint's config.json; the result was not published.",
            reason="conversion_not_equivalent",
        )
    return {
        "compared": "both sides' own tensors through this project's decoder, all layers, in fp32",
        "batch": list(expected.ids.shape),
        "max_abs_difference": apart,
        "largest_logit": scale,
        "tolerance": tolerance,
        "loss": dict(zip(names, (expected.loss, found.loss), strict=True)),
    }
