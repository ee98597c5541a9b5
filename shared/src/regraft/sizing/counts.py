"""How many parameters a model has, and how many of them are multiplied with every token.

The total comes from the family's table of tensors, the same one that checkpoints are checked against, so it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from regraft.families import Architecture, family_named, parameter_count


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameters of one model."""

    total: int
    """All weights; a tied head counts once."""
    block: int
    """Weights of one decoder block."""
    root: int
    """Weights outside of blocks: embedding, last norm and head, which sharded training gathers together."""
    head: int
    """Weights of the output layer, the embedding's when they are tied."""
    multiplied: int
    """Weights that take part in a matrix product with each token: all matrices but the input embedding."""

    @property
    def largest_unit(self) -> int:
        """A block or the output layer, whichever is larger."""
        return max(self.block, self.head)


def counts_of(architecture: Architecture) -> Counts:
    """Count a model's parameters."""
    a = architecture
    projections = 4 * a.hidden_size**2 + 2 * a.hidden_size * a.filter_size
    head = a.vocab_size * a.hidden_size
    total, block = parameter_count(family_named(a.family), a), _block(a, projections)
    return Counts(
        total=total,
        block=block,
        root=total - a.num_layers * block,
        head=head,
        multiplied=a.num_layers * projections + head,
    )


def _block(a: Architecture, projections: int) -> int:
    norms = 2 * a.hidden_size * (2 if a.separate_ffn_norm else 1)
    attention_biases = 4 * a.hidden_size if a.attention_bias else 0
    return projections + norms + attention_biases + a.filter_size + a.hidden_size


def flops_per_token(architecture: Architecture, *, length: int, recompute: bool = False) -> float:
    """Floating-point operations of a training step per token: 6 per multiplied weight, and attention.

    Attention over S positions takes 12 L H S with the half that the causal mask leaves out counted, as is the custom
    (PaLM, appendix B; llm-foundry), so that model FLOPs utilisation compares with published figures. `recompute`: with
    full activation checkpointing the forward pass is made twice.
    """
    a = architecture
    attention = 12 * a.num_layers * a.hidden_size * length
    flops = 6 * counts_of(a).multiplied + attention
    return flops * 4 / 3 if recompute else float(flops)
