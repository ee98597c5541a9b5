"""Cross entropy over the vocabulary without ever holding all logits.

The loss is weight * sum(cross entropy * mask) / divisor, the softmax in fp32 whatever the weights' precision. The
divisor makes it a mean per counted token (`num_tokens`) or per sequence (`batch_size`); a caller that sees a batch in
pieces, one after the other or on several devices, gives each the divisor of the whole batch and adds up.

Logits of one batch would be B * S * V numbers (56 x 512 x 50400 in fp32: 5.8 GB), so rows are taken in chunks, and the
gradients of hidden states and head are formed chunk by chunk while the logits are at hand: nothing is kept but the
gradients, nothing is computed twice, and all chunks use the same few buffers. The price is that the forward pass
already pays for the head's backward pass, which can run once; for scoring use `count_tokens`, which does not pay it.

Shapes: N rows = B * S, H hidden, V vocabulary, C rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft.specs import LossSpec
from regraft_worker.model.decoder import Decoder
from regraft_worker.model.projection import compute_dtype

_CHUNK_ELEMENTS = 2**25  # logits of one chunk: 128 MiB in fp32
_HALF_CHUNK_ELEMENTS = 2**27  # in half precision 256 MiB: each chunk's part of the head's gradient is rounded, and cast
_EXACT = 80.0  # exp(-80) is a normal number of fp32, with all of its digits
_BLOCK_ELEMENTS = 2**22  # of a softmax on a processor: 16 MiB, which its cache may hold

Features = Mapping[str, Tensor]
"""`input_ids`, `attention_mask` (counts a position in the loss) and `labels` (shifted already), and where attention
stays within documents `attention_span` and `position_ids`: int32 (B, S) each."""


class TokenCounts(NamedTuple):
    """What one batch adds to the scores of a dataset; float64 and int64 scalars on the batch's device."""

    loss_sum: Tensor
    tokens: Tensor
    correct: Tensor


def divisor_of(spec: LossSpec, *, tokens: float, samples: int) -> float:
    """What the loss of a whole batch, over all micro-batches and devices, is divided by: never 0.

    `tokens` is the sum of its loss mask, `samples` the number of its sequences.
    """
    return max(float(tokens), 1.0) if spec.scaling == "num_tokens" else float(max(samples, 1))


def training_loss(
    model: Decoder,
    features: Features,
    *,
    divisor: Tensor | float | None = None,
    weight: float = 1.0,
    chunk_rows: int | None = None,
) -> Tensor:
    """weight * sum(cross entropy * mask) / divisor, differentiable once; without a divisor the mean per counted token.

    A batch that counts no token has a loss of 0 and changes nothing.
    """
    hidden, labels, mask = _rows(model, features)
    if divisor is None:
        divisor = mask.sum().clamp(min=1)
    rows = _chunk_rows(len(model.head_weight), chunk_rows, compute_dtype(hidden))
    total: Tensor = _SummedLoss.apply(hidden, model.head_weight, model.head.bias, labels, mask, rows)  # type: ignore[no-untyped-call]
    return (total * (weight / divisor)).float()


def mean_loss(model: Decoder, features: Features, *, chunk_rows: int | None = None) -> Tensor:
    """Mean cross entropy per counted token, differentiable once; 0 when no token is counted."""
    return training_loss(model, features, chunk_rows=chunk_rows)


@torch.no_grad()
def count_tokens(model: Decoder, features: Features, *, chunk_rows: int | None = None) -> TokenCounts:
    """Summed cross entropy, counted tokens, and right predictions among them."""
    hidden, labels, mask = _rows(model, features)
    loss_sum = torch.zeros((), dtype=torch.float64, device=hidden.device)
    correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for rows in _chunks(len(hidden), _chunk_rows(len(model.head_weight), chunk_rows, torch.float32)):
        logits = model.logits(hidden[rows]).float()  # (C, V)
        loss_sum += (F.cross_entropy(logits, labels[rows], reduction="none") * mask[rows]).sum(dtype=torch.float64)
        correct += ((logits.argmax(dim=-1) == labels[rows]) & (mask[rows] != 0)).sum()
    return TokenCounts(loss_sum, (mask != 0).sum(), correct)


def _rows(model: Decoder, features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (N, H), labels (N,) int64 and mask (N,) fp32."""
    ids, mask, labels = features["input_ids"], features["attention_mask"], features["labels"]
    for tensor in features.values():
        assert tensor.dtype == torch.int32, f"features are int32, not {tensor.dtype}"
        assert tensor.ndim == 2, "features are (B, S)"
        assert tensor.shape == ids.shape, "features have one shape"
    hidden = model(ids, features.get("attention_span"), features.get("position_ids")).flatten(0, 1)
    return hidden, labels.flatten().long(), mask.flatten().float()


def _chunk_rows(vocab_size: int, asked: int | None, dtype: torch.dtype) -> int:
    elements = _CHUNK_ELEMENTS if dtype == torch.float32 else _HALF_CHUNK_ELEMENTS
    return asked or max(1, elements // vocab_size)


def _chunks(n: int, rows: int) -> Iterator[slice]:
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


class _SummedLoss(torch.autograd.Function):
    """sum(cross entropy * mask) of linear(hidden, weight, bias), in float64."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, mask: Tensor, chunk_rows: int
    ) -> Tensor:
        dtype = compute_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            loss, gradients = _head_pass(hidden, weight, bias, labels, mask, chunk_rows, dtype)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        # In place: the gradient of a head is large. A second backward pass is refused by autograd, which notices.
        d_hidden, d_weight, d_bias = (None if d is None else d.mul_(d_loss.to(d.dtype)) for d in ctx.saved_tensors)
        return d_hidden, d_weight, d_bias, None, None, None


def _head_pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor,
    chunk_rows: int,
    dtype: torch.dtype,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None]]:
    """The loss, and its gradients by hidden states, weight and bias."""
    w, b, h = weight.to(dtype), None if bias is None else bias.to(dtype), hidden.to(dtype)
    counted = h * mask[:, None].to(dtype)  # a row that does not count gives the weight no gradient
    d_hidden, d_weight = torch.empty_like(h), torch.empty_like(weight)
    d_bias = None if bias is None else torch.zeros_like(bias)
    logits = h.new_empty(min(chunk_rows, len(h)), len(w))  # (C, V), used again and again
    partial = d_weight if dtype == weight.dtype else torch.empty_like(w)
    loss = torch.zeros((), dtype=torch.float64, device=h.device)
    for rows in _chunks(len(h), chunk_rows):
        d = logits[: rows.stop - rows.start]
        torch.mm(h[rows], w.t(), out=d)
        if b is not None:
            d += b
        losses = _to_gradient(d, labels[rows])
        if losses.device.type == "cpu":
            _compute_again(losses, h[rows], w, b, labels[rows])
        loss += (losses * mask[rows]).sum(dtype=torch.float64)
        torch.mm(d, w, out=d_hidden[rows])
        _accumulate(d_weight, partial, d, counted[rows], first=rows.start == 0)
        if d_bias is not None:
            d_bias += mask[rows] @ d if d.dtype == mask.dtype else (mask[rows].to(dtype) @ d)
    return loss, (d_hidden.mul_(mask[:, None]).to(hidden.dtype), d_weight, d_bias)


def _accumulate(total: Tensor, partial: Tensor, d: Tensor, h: Tensor, *, first: bool) -> None:
    """Add d.t() @ h to `total`; `partial` is room for it where the precisions differ."""
    if partial is total:
        torch.addmm(total, d.t(), h, beta=0 if first else 1, out=total)
        return
    torch.mm(d.t(), h, out=partial)
    if first:
        total.copy_(partial)
    else:
        total.add_(partial)


def _to_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each row (C,) in fp32; the logits (C, V) become its gradient, softmax - one_hot(label)."""
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    # On a processor in blocks small enough to stay in its cache; elsewhere at once.
    block = max(1, _BLOCK_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    scratch = (
        logits
        if logits.dtype == torch.float32
        else logits.new_empty(min(block, len(logits)), logits.shape[1], dtype=torch.float32)
    )
    for rows in _chunks(len(logits), block):
        x = logits[rows] if scratch is logits else scratch[: rows.stop - rows.start].copy_(logits[rows])
        losses[rows] = _softmax_in_place(x, labels[rows, None])
        if scratch is not logits:
            logits[rows].copy_(x)
    return losses


def _softmax_in_place(x: Tensor, labels: Tensor) -> Tensor:
    """`x` (C, V) becomes softmax(x) - one_hot(label); the cross entropy of each row.

    On a processor it is read off the probability of the label, without two passes for maxima; where that is too small
    for fp32, the cross entropy is beyond `_EXACT` (see `_compute_again`).
    """
    if x.device.type == "cpu":
        torch.softmax(x, dim=-1, out=x)
        losses = -x.gather(-1, labels).squeeze(-1).log()
    else:
        top, picked = x.amax(dim=-1), x.gather(-1, labels).squeeze(-1)
        torch.softmax(x, dim=-1, out=x)
        # The largest probability is exp(top) / Z and at least 1 / V: Z follows from it without loss and without a pass.
        losses = top - x.amax(dim=-1).log() - picked
    x.scatter_add_(-1, labels, x.new_full(labels.shape, -1.0))
    return losses


def _compute_again(losses: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> None:
    """From the logits, the losses (C,) whose probability has lost digits; hardly ever there are any."""
    lost = losses > _EXACT
    if lost.any():
        logits = F.linear(hidden[lost], weight, bias).float()
        losses[lost] = F.cross_entropy(logits, labels[lost], reduction="none")
