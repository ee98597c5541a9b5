"""The decoder with weights that are read when they are multiplied with, and not kept.

So a model of any size computes in memory for some blocks. It is the decoder that trains, with its large matrices
exchanged for these; the numbers differ from its own in the last bits, because rows are multiplied in blocks. The price
is that every call reads all weights: for a proof on a few tokens, not for training or scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft.families import Architecture
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.model.decoder import Decoder

Tick = Callable[[int], None]
_BLOCK_BYTES = 2**20  # small enough to stay in the cache between its conversion to fp32 and its use
_MATRICES = ("q", "k", "v", "out", "up", "down")


class _Linear(nn.Module):
    """y (..., O) of x (..., I) for weights (O, I), in fp32."""

    def __init__(self, weight: Lazy, bias: Lazy | None, tick: Tick) -> None:
        super().__init__()
        self._weight, self._bias, self._tick = weight, bias, tick

    def forward(self, x: Tensor) -> Tensor:
        y, reached = x.new_empty(*x.shape[:-1], self._weight.shape[0]), 0
        for block in self._weight.blocks(_BLOCK_BYTES):
            # Copied away at once: what is kept between the blocks would keep the allocator from using their room again.
            y[..., reached : reached + len(block)] = F.linear(x, block.float())
            reached += len(block)
            self._tick(block.nbytes)
        return y if self._bias is None else y + _small(self._bias, self._tick)


class _Embedding(nn.Module):
    """Rows (B, S, H) of ids (B, S); no others are read."""

    def __init__(self, weight: Lazy, tick: Tick) -> None:
        super().__init__()
        self._weight, self._tick = weight, tick

    def forward(self, ids: Tensor) -> Tensor:
        found, places = ids.unique(return_inverse=True)
        rows = [self._weight.read_rows(number, number + 1).float() for number in found.tolist()]
        self._tick(self._weight.nbytes)
        return torch.cat(rows)[places]


def streamed(architecture: Architecture, own: Mapping[str, Lazy], tick: Tick) -> Callable[[Tensor], Tensor]:
    """A function from ids (B, S) to logits (B, S, V); `tick` is told of the bytes of every tensor it passes."""
    with torch.device("meta"):
        decoder = Decoder(architecture)
    decoder.embedding = _Embedding(own["embedding.weight"], tick)  # type: ignore[assignment]
    for number, block in enumerate(decoder.layers):
        for name in _MATRICES:
            setattr(block, name, _linear(own, f"layers.{number}.{name}", tick))
        for name in ("norm1", "norm2"):
            _fill(getattr(block, name), own, f"layers.{number}.{name}", tick)
    _fill(decoder.norm, own, "norm", tick)
    weight = own["embedding.weight" if architecture.tied_embeddings else "head.weight"]
    head = _Linear(weight, own.get("head.bias"), tick)
    decoder.eval()

    def logits(ids: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = head(decoder(ids))
        return found

    return logits


def _linear(own: Mapping[str, Lazy], name: str, tick: Tick) -> _Linear:
    return _Linear(own[f"{name}.weight"], own.get(f"{name}.bias"), tick)


def _fill(norm: nn.LayerNorm | None, own: Mapping[str, Lazy], name: str, tick: Tick) -> None:
    if norm is not None:
        norm.weight = nn.Parameter(_small(own[f"{name}.weight"], tick))
        norm.bias = nn.Parameter(_small(own[f"{name}.bias"], tick))


def _small(lazy: Lazy, tick: Tick) -> Tensor:
    tick(lazy.nbytes)
    return lazy.whole().to(torch.float32, copy=True)  # the file may be closed before it is used
