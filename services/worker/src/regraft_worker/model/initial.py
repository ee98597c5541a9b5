"""Weights of a model that is trained from scratch, drawn as the Cerebras Model Zoo's config keys say.

Without an initializer matrices come from a normal distribution cut off at two standard deviations, the head's from one
that is not; norms are 1, biases 0. The same architecture, initializers and seed give the same weights. When not to use
it: continued pre-training, which replaces every weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from regraft_worker.model.decoder import Decoder

Kind = Literal["truncated_normal", "normal", "uniform", "constant"]


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """One distribution. `low` and `high` are where a truncated normal is cut, or the range of a uniform one."""

    kind: Kind = "truncated_normal"
    mean: float = 0.0
    """Or the value of a constant."""
    std: float = 1.0
    low: float
    high: float

    def fill(self, tensor: Tensor, generator: torch.Generator) -> None:
        """Draw the tensor in place."""
        if self.kind == "constant":
            tensor.fill_(self.mean)
        elif self.kind == "uniform":
            tensor.uniform_(self.low, self.high, generator=generator)
        elif self.kind == "normal":
            tensor.normal_(self.mean, self.std, generator=generator)
        else:
            nn.init.trunc_normal_(tensor, self.mean, self.std, self.low, self.high, generator=generator)


def truncated_normal(std: float) -> Initializer:
    """Cut off at two standard deviations."""
    return Initializer(std=std, low=-2 * std, high=2 * std)


@dataclass(frozen=True, kw_only=True)
class Initializers:
    """Which distribution each matrix comes from."""

    embedding: Initializer
    projection: Initializer
    """Query, key and value."""
    attention_output: Initializer
    up: Initializer
    down: Initializer
    head: Initializer = field(default_factory=lambda: normal(0.02))


def normal(std: float) -> Initializer:
    """Not cut off."""
    return Initializer(kind="normal", std=std, low=float("-inf"), high=float("inf"))


def default_initializers(initializer_range: float) -> Initializers:
    """Where a config names none."""
    usual = truncated_normal(initializer_range)
    return Initializers(
        embedding=usual,
        projection=usual,
        attention_output=usual,
        up=usual,
        down=usual,
        head=normal(initializer_range),
    )


@torch.no_grad()
def draw_weights(model: Decoder, initializers: Initializers, *, seed: int) -> None:
    """Fill the weights of a decoder on the host in place; the head of tied embeddings is the embedding."""
    generator = torch.Generator().manual_seed(seed)
    of = {
        "embedding": initializers.embedding,
        **dict.fromkeys("qkv", initializers.projection),
        "out": initializers.attention_output,
        "up": initializers.up,
        "down": initializers.down,
        "head": initializers.head,
    }
    for name, parameter in model.named_parameters():
        *_, owner, kind = name.split(".")
        if owner in of and kind == "weight":
            of[owner].fill(parameter, generator)
        else:
            parameter.fill_(1.0 if kind == "weight" else 0.0)
