"""One pre-norm decoder for every family: GPT-J and GPT-NeoX are settings of it.

A family never appears here by name; the switches of `Architecture` decide. Module attributes carry the `own` names of
the family tables, so that `state_dict()` needs no translation: embedding, layers.{n}.{norm1,norm2,q,k,v,out,up,down},
norm, head. With tied embeddings there is no `head.weight`.

Attention is causal, and within documents where the data says where they begin (`documents`). `attention_mask` in the
data is a mask of the loss (see `loss`). Padding stands on the right only, so no counted position can see it.

The trade-off: torch operations that compute the same on any device, instead of kernels for one. Not for generation:
there is no key/value cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft.errors import InvalidInputError
from regraft.families import Architecture
from regraft_worker.model.activations import activation
from regraft_worker.model.documents import document_mask
from regraft_worker.model.projection import project
from regraft_worker.model.rotary import RotaryTable, rotary_table, rotate


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

    def forward(self, x: Tensor, table: RotaryTable, mask: Tensor | None = None) -> Tensor:
        """`mask` (B, 1, S, S): true where a row attends to a column; None: to all that come before it."""
        if self.norm2 is None:
            q, k, v, up = project(self.norm1(x), self.q, self.k, self.v, self.up)
            return x + self._attention(q, k, v, table, mask) + self._feed_forward(up)
        attended = self._attention(*project(self.norm1(x), self.q, self.k, self.v), table, mask)
        if self.architecture.parallel_residual:
            # y = x + attention(norm1(x)) + feed_forward(norm2(x)): both branches read the same x.
            return x + attended + self._feed_forward(*project(self.norm2(x), self.up))
        x = x + attended
        return x + self._feed_forward(*project(self.norm2(x), self.up))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, table: RotaryTable, mask: Tensor | None) -> Tensor:
        a = self.architecture
        q, k, v = (x.unflatten(-1, (a.num_heads, a.head_dim)) for x in (q, k, v))  # (B, S, heads, head_dim)
        q, k = (rotate(x, table, interleaved=a.rotary_interleaved) for x in (q, k))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        dropout = a.attention_dropout if self.training else 0.0
        # Scale is 1/sqrt(head_dim), the default.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None)
        return self._dropout(*project(mixed.transpose(1, 2).flatten(2), self.out))

    def _feed_forward(self, up: Tensor) -> Tensor:
        return self._dropout(*project(self.activation(up), self.down))

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

    The weights are left as torch makes them: load a checkpoint, or draw them (`initial`), before use.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Embedding(architecture.vocab_size, architecture.hidden_size)
        self.layers = nn.ModuleList(Block(architecture) for _ in range(architecture.num_layers))
        self.norm = nn.LayerNorm(architecture.hidden_size, eps=architecture.layer_norm_epsilon)
        self.head = Head(architecture)

    def forward(
        self, input_ids: Tensor, attention_span: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Ids (B, S) to hidden states (B, S, H) after the final norm.

        Without `attention_span` and `position_ids` (both (B, S), see `documents`) a window is one document.

        Raises:
            InvalidInputError: S exceeds the model's positions.
        """
        a = self.architecture
        S = input_ids.shape[1]
        check_length(S, a)
        positions = torch.arange(S, device=input_ids.device) if position_ids is None else position_ids
        table = rotary_table(positions, a.rotary_dim, theta=a.rope_theta, scaling=a.rope_scaling_factor)
        mask = None if attention_span is None else document_mask(attention_span)
        x = F.dropout(self.embedding(input_ids), a.embedding_dropout, self.training)  # (B, S, H)
        for layer in self.layers:
            x = layer(x, table, mask)
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
