"""One pre-norm decoder for every family: GPT-J and GPT-NeoX are settings of it.

A family never appears here by name; the switches of `Architecture` decide. Module attributes carry the `own` names of
the family tables, so that `state_dict()` needs no translation: embedding, layers.{n}.{norm1,norm2,q,k,v,out,up,down},
norm, head. With tied embeddings there is no `head.weight`.

Attention is causal and nothing else: `attention_mask` in the data is a mask of the loss (see `loss`). Padding stands on
the right only, so no counted position can see it.

The trade-off: plain torch modules that compute the same on any device, instead of fused kernels. Not for generation:
there is no key/value cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft.errors import InvalidInputError
from regraft.families import Architecture
from regraft_worker.model.rotary import RotaryTable, rotary_table, rotate

Activation = Callable[[Tensor], Tensor]

# `gelu_fast` is the tanh form with its constant rounded to ten digits: below fp32 resolution.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def activation(name: str) -> Activation:
    """The activation that Hugging Face calls `name`.

    Raises:
        InvalidInputError: it is none of those the decoder has.
    """
    if name not in ACTIVATIONS:
        raise InvalidInputError(
            "unknown activation", field="activation", value=name, remedy=f"Use one of: {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


class Block(nn.Module):
    """Attention and feed-forward around the residual stream x (B, S, H)."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        assert a.parallel_residual or a.separate_ffn_norm, "no family chains its branches behind one norm"
        H, F_ = a.hidden_size, a.filter_size
        self.architecture = a
        self.activation = activation(a.activation)
        self.norm1 = nn.LayerNorm(H, eps=a.layer_norm_epsilon)
        # GPT-J feeds both branches from one norm; a second one would be a parameter its checkpoints lack.
        self.norm2 = nn.LayerNorm(H, eps=a.layer_norm_epsilon) if a.separate_ffn_norm else None
        self.q = nn.Linear(H, H, bias=a.attention_bias)
        self.k = nn.Linear(H, H, bias=a.attention_bias)
        self.v = nn.Linear(H, H, bias=a.attention_bias)
        self.out = nn.Linear(H, H, bias=a.attention_bias)
        self.up = nn.Linear(H, F_)
        self.down = nn.Linear(F_, H)

    def forward(self, x: Tensor, table: RotaryTable) -> Tensor:
        normed = self.norm1(x)
        attended = self._dropout(self._attention(normed, table))
        if self.architecture.parallel_residual:
            # y = x + attention(norm1(x)) + feed_forward(norm2(x)): both branches read the same x.
            return x + attended + self._feed_forward(normed if self.norm2 is None else self.norm2(x))
        assert self.norm2 is not None
        x = x + attended
        return x + self._feed_forward(self.norm2(x))

    def _attention(self, x: Tensor, table: RotaryTable) -> Tensor:
        q = rotate(self._heads(self.q(x)), table, interleaved=self.architecture.rotary_interleaved)
        k = rotate(self._heads(self.k(x)), table, interleaved=self.architecture.rotary_interleaved)
        v = self._heads(self.v(x))
        dropout = self.architecture.attention_dropout if self.training else 0.0
        # Scale is 1/sqrt(head_dim), the default.
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)  # (B, heads, S, head_dim)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        """(B, S, H) to (B, heads, S, head_dim)."""
        return x.view(*x.shape[:2], self.architecture.num_heads, self.architecture.head_dim).transpose(1, 2)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self._dropout(self.down(self.activation(self.up(x))))

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.architecture.residual_dropout, self.training)


class Head(nn.Module):
    """Weight and bias of the output layer; either may be absent (tied embeddings, GPT-NeoX)."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        weight = None if a.tied_embeddings else nn.Parameter(torch.zeros(a.vocab_size, a.hidden_size))
        self.register_parameter("weight", weight)
        self.register_parameter("bias", nn.Parameter(torch.zeros(a.vocab_size)) if a.lm_head_bias else None)


class Decoder(nn.Module):
    """Token ids to hidden states; `logits` or `regraft_worker.model.loss` take it from there.

    The weights are left as torch makes them: load a checkpoint before use.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Embedding(architecture.vocab_size, architecture.hidden_size)
        self.layers = nn.ModuleList(Block(architecture) for _ in range(architecture.num_layers))
        self.norm = nn.LayerNorm(architecture.hidden_size, eps=architecture.layer_norm_epsilon)
        self.head = Head(architecture)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids (B, S) to hidden states (B, S, H) after the final norm.

        Raises:
            InvalidInputError: S exceeds the model's positions.
        """
        a = self.architecture
        S = input_ids.shape[1]
        check_length(S, a)
        table = rotary_table(
            S, a.rotary_dim, theta=a.rope_theta, scaling=a.rope_scaling_factor, device=input_ids.device
        )
        x = F.dropout(self.embedding(input_ids), a.embedding_dropout, self.training)  # (B, S, H)
        for layer in self.layers:
            x = layer(x, table)
        return self.norm(x)  # type: ignore[no-any-return]

    @property
    def head_weight(self) -> Tensor:
        """(V, H): the head's own, or the embedding when they are tied."""
        return self.embedding.weight if self.head.weight is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) to logits (..., V). For training use the loss, which never holds all of them."""
        return F.linear(hidden, self.head_weight, self.head.bias)


def check_length(length: int, architecture: Architecture, *, field: str = "max_sequence_length") -> None:
    """Refuse windows longer than the positions the model was made for.

    Raises:
        InvalidInputError: `length` exceeds `max_position_embeddings`.
    """
    if length > architecture.max_position_embeddings:
        raise InvalidInputError(
            f"the model has only {architecture.max_position_embeddings} positions",
            field=field,
            value=length,
            remedy=f"Use windows of at most {architecture.max_position_embeddings} tokens.",
        )
