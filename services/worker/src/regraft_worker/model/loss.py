"""Cross entropy over the vocabulary without ever holding all logits.

The loss is the `num_tokens` form: sum(cross entropy * mask) / sum(mask), the softmax in fp32 whatever the weights'
precision. Logits of one batch would be B * S * V numbers (56 x 512 x 50400 in fp32: 5.8 GB), so rows are taken in
chunks, and the gradients of hidden states and head are formed chunk by chunk while the logits are at hand: nothing is
kept but the gradients, and nothing is computed twice. The price is that the forward pass already pays for the head's
backward pass; for scoring use `count_tokens`, which does not.

Shapes: N rows = B * S, H hidden, V vocabulary, C rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft_worker.model.decoder import Decoder

_CHUNK_ELEMENTS = 2**26  # fp32 logits of one chunk: 256 MiB

Features = Mapping[str, Tensor]
"""`input_ids`, `attention_mask` (counts a position in the loss) and `labels` (shifted already): int32 (B, S) each."""


class TokenCounts(NamedTuple):
    """What one batch adds to the scores of a dataset; float64 and int64 scalars on the batch's device."""

    loss_sum: Tensor
    tokens: Tensor
    correct: Tensor


def mean_loss(
    model: Decoder, features: Features, *, divisor: float | None = None, chunk_rows: int | None = None
) -> Tensor:
    """Summed cross entropy of the counted tokens by `divisor`, differentiable; 0 when no token is counted.

    Null: their number, which makes it the mean. Parts of a batch take the number of the whole: their losses add up to
    its mean.
    """
    hidden, labels, mask = _rows(model, features)
    weight, bias = model.head_weight, model.head.bias
    rows = _chunk_rows(weight, chunk_rows)
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, bias, labels, mask, divisor, rows)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def count_tokens(model: Decoder, features: Features, *, chunk_rows: int | None = None) -> TokenCounts:
    """Summed cross entropy, counted tokens, and right predictions among them."""
    hidden, labels, mask = _rows(model, features)
    loss_sum = torch.zeros((), dtype=torch.float64, device=hidden.device)
    correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for rows in _chunks(len(hidden), _chunk_rows(model.head_weight, chunk_rows)):
        logits = model.logits(hidden[rows]).float()  # (C, V)
        loss_sum += (F.cross_entropy(logits, labels[rows], reduction="none") * mask[rows]).sum(dtype=torch.float64)
        correct += ((logits.argmax(dim=-1) == labels[rows]) & (mask[rows] != 0)).sum()
    return TokenCounts(loss_sum, (mask != 0).sum(), correct)


def _rows(model: Decoder, features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (N, H), labels (N,) int64 and mask (N,) fp32."""
    ids, mask, labels = features["input_ids"], features["attention_mask"], features["labels"]
    for tensor in (ids, mask, labels):
        assert tensor.dtype == torch.int32, f"features are int32, not {tensor.dtype}"
        assert tensor.ndim == 2, "features are (B, S)"
        assert tensor.shape == ids.shape, "features have one shape"
    hidden = model(ids).flatten(0, 1)
    return hidden, labels.flatten().long(), mask.flatten().float()


def _chunk_rows(weight: Tensor, asked: int | None) -> int:
    return asked or max(1, _CHUNK_ELEMENTS // weight.shape[0])


def _chunks(n: int, rows: int) -> Iterator[slice]:
    for start in range(0, n, rows):
        yield slice(start, start + rows)


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's choice where it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _ChunkedLoss(torch.autograd.Function):
    """sum(cross entropy * mask) / divisor of linear(hidden, weight, bias)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        mask: Tensor,
        divisor: float | None,
        chunk_rows: int,
    ) -> Tensor:
        dtype = _compute_dtype(hidden)
        w = weight.to(dtype)  # (V, H)
        # Processors without bf16 arithmetic multiply the other layout many times slower; fp32 needs no copy.
        w_t = w.t() if dtype == weight.dtype else w.t().contiguous()
        share = mask / (mask.sum().clamp(min=1) if divisor is None else divisor)  # (N,), a row's part in the mean
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for rows in _chunks(len(hidden), chunk_rows):
            h = hidden[rows].to(dtype)
            logits = F.linear(h, w, None if bias is None else bias.to(dtype)).float()  # (C, V)
            chunk_loss, d_logits = _loss_and_gradient(logits, labels[rows], share[rows])
            loss += chunk_loss
            d = d_logits.to(dtype)
            d_hidden[rows] = F.linear(d, w_t)
            d_weight += d.t() @ h
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return loss.float()

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        return d_hidden * d_loss, d_weight * d_loss, None if d_bias is None else d_bias * d_loss, None, None, None, None


def _loss_and_gradient(logits: Tensor, labels: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """sum(share * cross entropy) in float64, and its gradient by the logits, which are overwritten with it."""
    log_z = logits.logsumexp(dim=-1)  # (C,)
    picked = logits.gather(-1, labels[:, None]).squeeze(-1)
    loss = ((log_z - picked) * share).sum(dtype=torch.float64)
    probabilities = logits.sub_(log_z[:, None]).exp_()
    # d loss / d logits = share * (probabilities - one_hot(labels))
    d_logits = probabilities.scatter_add_(-1, labels[:, None], torch.full_like(picked, -1.0)[:, None])
    return loss, d_logits.mul_(share[:, None])
