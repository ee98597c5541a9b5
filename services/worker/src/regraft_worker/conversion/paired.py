"""Both sides of a conversion through the decoder at once: each tensor is read once from either side.

Where both sides' rows are the same bits they are multiplied once, for both; where they differ (rotary rows in another
order) each side is computed with its own, and pairs rows as its own convention has it. As long as the sides agree bit
for bit, in weights and in what came before, one batch stands for both: equal numbers through equal operations need no
second computation. What was found equal is told to the caller, who need not compare it again.

Weights are streamed in blocks that fit the cache, several threads at a time. Like `streamed`, for a proof on a few
tokens, not for training or scoring.

Shapes: n is 1 while the sides agree, else 2; S tokens, H and O the widths of a layer's input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft.families import Architecture
from regraft_worker.conversion.bits import is_finite, same_bits
from regraft_worker.conversion.lazy import Lazy, ReadRows
from regraft_worker.conversion.side import Side
from regraft_worker.model.decoder import Block, Decoder
from regraft_worker.model.rotary import RotaryTable, rotate

_BLOCK_BYTES = 2**20  # small enough to stay in the cache from its comparison to its use
_MATRICES = ("q", "k", "v", "out", "up", "down")
_TOKENS = 16
_STRIDE = 7919  # a prime beyond the small factors of vocabularies: few ids come twice

Tick = Callable[[int], None]
Compared = set[tuple[ReadRows, ReadRows]]
"""Readers of tensors of which every row was compared, and found to be the same bits and finite."""


@dataclass(frozen=True)
class Sides:
    """The tensors of both under the names of the decoder, and how they are worked through."""

    left: Mapping[str, Lazy]
    right: Mapping[str, Lazy]
    threads: ThreadPoolExecutor
    tick: Tick
    compared: Compared = field(default_factory=set)

    def matrix(self, name: str) -> nn.Module:
        return _Linear(self, name + ".weight", name + ".bias" if name + ".bias" in self.left else "")

    def small(self, name: str) -> Tensor:
        """(n, 1, O) in fp32."""
        left, right = self.left[name].whole(), self.right[name].whole()
        self.tick(left.nbytes)
        if same_bits(left, right):
            if is_finite(left):
                self.found_equal(name)
            return left.reshape(1, 1, -1).to(torch.float32, copy=True)
        return torch.stack([left.float(), right.float()]).reshape(2, 1, -1)

    def found_equal(self, name: str) -> None:
        self.compared.add((self.left[name].read_rows, self.right[name].read_rows))


class _Linear(nn.Module):
    """y (n, S, O) of x (n, S, I) for weights (O, I) of either side, in fp32."""

    def __init__(self, sides: Sides, weight: str, bias: str) -> None:
        super().__init__()
        self._sides, self._weight, self._bias = sides, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        left, right = self._sides.left[self._weight], self._sides.right[self._weight]
        y = x.new_empty(2, x.shape[1], left.shape[0])

        def rows(start: int) -> tuple[bool, int]:
            stop = min(start + step, left.shape[0])
            ours, theirs = left.read_rows(start, stop), right.read_rows(start, stop)
            same = same_bits(ours, theirs)
            values = ours.float()
            y[: len(x), :, start:stop] = F.linear(x, values)
            if not same:
                y[1, :, start:stop] = F.linear(x[-1], theirs.float())
            elif len(x) == 1:
                y[1, :, start:stop] = y[0, :, start:stop]
            return same and is_finite(ours), ours.nbytes

        step = max(1, _BLOCK_BYTES // max(1, left.nbytes // left.shape[0]))
        equal = True
        for same, count in self._sides.threads.map(rows, range(0, left.shape[0], step)):
            equal &= same
            self._sides.tick(count)
        if equal:
            self._sides.found_equal(self._weight)
        if equal and len(x) == 1:
            y = y[:1]
        return y + self._sides.small(self._bias) if self._bias else y


class _Embedding(nn.Module):
    """Rows (n, S, H) of ids (1, S); no others are read."""

    def __init__(self, sides: Sides) -> None:
        super().__init__()
        self._sides = sides

    def forward(self, ids: Tensor) -> Tensor:
        left, right = (self._rows(side["embedding.weight"], ids) for side in (self._sides.left, self._sides.right))
        return (left if same_bits(left, right) else torch.cat([left, right])).float()

    @staticmethod
    def _rows(weight: Lazy, ids: Tensor) -> Tensor:
        return torch.cat([weight.read_rows(number, number + 1).clone() for number in ids[0].tolist()])[None]


class _Norm(nn.Module):
    """(n, S, H) to the same."""

    def __init__(self, sides: Sides, name: str, epsilon: float) -> None:
        super().__init__()
        self._weight, self._bias = sides.small(f"{name}.weight"), sides.small(f"{name}.bias")
        self._epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self._epsilon) * self._weight + self._bias


class _Block(Block):
    """Attention in which each side pairs the rows of a head as it is used to."""

    def __init__(self, architectures: tuple[Architecture, Architecture]) -> None:
        super().__init__(architectures[0])
        self._interleaved = tuple(one.rotary_interleaved for one in architectures)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, table: RotaryTable, mask: Tensor | None) -> Tensor:
        a = self.architecture
        q, k, v = (x.unflatten(-1, (a.num_heads, a.head_dim)) for x in (q, k, v))  # (n, S, heads, head_dim)
        q, k = self._turned(q, table), self._turned(k, table)
        n = max(map(len, (q, k, v)))
        q, k, v = (x.expand(n, -1, -1, -1).transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended

    def _turned(self, x: Tensor, table: RotaryTable) -> Tensor:
        ours, theirs = self._interleaved
        if ours == theirs:
            return rotate(x, table, interleaved=ours)
        return torch.cat([rotate(x[:1], table, interleaved=ours), rotate(x[-1:], table, interleaved=theirs)])


def logits_of_both(left: Side, right: Side, tick: Tick, *, threads: int = 0) -> tuple[Tensor, Tensor, Compared]:
    """The ids (1, S), logits (n, S, V) of `left` first and `right` last, and what was found equal and finite.

    `threads` is as many as torch may use by default.
    """
    architecture, ours = left.own()
    other, theirs = right.own()
    with _threads(threads) as pool:
        sides = Sides(ours, theirs, pool, tick)
        decoder = _decoder((architecture, other), sides)
        head = sides.matrix("head")
        if architecture.tied_embeddings:
            head = _Linear(sides, "embedding.weight", "head.bias" if "head.bias" in ours else "")
        ids, positions = batch(architecture)
        with torch.no_grad():
            logits = head(decoder(ids, position_ids=positions))
    return ids, logits, sides.compared


def batch(architecture: Architecture) -> tuple[Tensor, Tensor]:
    """The fixed ids and their positions, each (1, S): spread over all that the model has, ever farther apart.

    The slowest rotary angles differ between far positions only; so few tokens say more of them than many in a row.
    """
    last = architecture.max_position_embeddings - 1
    count = min(_TOKENS, last + 1)
    places = [max(number, number**2 * last // max(1, count - 1) ** 2) for number in range(count)]
    ids = (torch.arange(count) * _STRIDE + 1) % architecture.vocab_size
    return ids[None], torch.tensor(places)[None]


def _decoder(architectures: tuple[Architecture, Architecture], sides: Sides) -> Decoder:
    epsilon = architectures[0].layer_norm_epsilon
    with torch.device("meta"):
        decoder = Decoder(architectures[0])
        decoder.layers = nn.ModuleList(_Block(architectures) for _ in decoder.layers)
    decoder.embedding = _Embedding(sides)  # type: ignore[assignment]
    for number, block in enumerate(decoder.layers):
        for name in _MATRICES:
            setattr(block, name, sides.matrix(f"layers.{number}.{name}"))
        for name in ("norm1", "norm2"):
            if getattr(block, name) is not None:
                setattr(block, name, _Norm(sides, f"layers.{number}.{name}", epsilon))
    decoder.norm = _Norm(sides, "norm", epsilon)  # type: ignore[assignment]
    return decoder.eval()


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, each of which computes alone: blocks are too small to be divided."""
    before = torch.get_num_threads()
    with ThreadPoolExecutor(count or before, thread_name_prefix="paired") as pool:
        try:
            if count != 1:
                torch.set_num_threads(1)
            yield pool
        finally:
            torch.set_num_threads(before)
