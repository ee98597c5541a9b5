"""Tensor names: from one naming to a row of a family's table, and back.

Three namings meet here: `own` (this project's decoder), `hf` (Hugging Face) and `cs` (Cerebras Model Zoo). This
module knows names and the limits of a format, never values: moving and permuting tensors needs torch and lives in
`regraft_worker.conversion.mapping`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from regraft.families import Architecture, Family, Tensor, family_named, has_tensor
from regraft.formats import Release

_LAYER = re.compile(r"\.(0|[1-9][0-9]{0,5})\.")
_HEAD = "head.weight"
CS_ROPE_THETA = 10000.0
_SCALED_ROPE: Release = (2, 1)


@dataclass(frozen=True)
class Row:
    """One tensor of one model: a row of the table, and the layer it is in (None outside the layers)."""

    tensor: Tensor
    layer: int | None

    @property
    def hf(self) -> str:
        return fill(self.tensor.hf, self.layer)

    @property
    def own(self) -> tuple[str, ...]:
        return tuple(fill(name, self.layer) for name in self.tensor.own)

    @property
    def cs(self) -> tuple[str, ...]:
        return tuple(fill(name, self.layer) for name in self.tensor.cs)

    @property
    def stored_twice(self) -> bool:
        """True when Cerebras keeps this one tensor under several names."""
        return len(self.tensor.own) == 1 and len(self.tensor.cs) > 1

    @property
    def is_head(self) -> bool:
        """True for the output projection, which a model with tied embeddings shares with the embedding."""
        return self.tensor.own == (_HEAD,)


def fill(template: str, layer: int | None) -> str:
    """The name that a template has in one layer."""
    return template if layer is None else template.replace("{n}", str(layer))


def find_hf(family: Family, architecture: Architecture, name: str) -> Row | None:
    """The row of a Hugging Face name; None when the model has no such tensor."""
    number = _LAYER.search(name)
    layer = int(number.group(1)) if number else None
    if layer is not None and layer >= architecture.num_layers:
        return None
    for tensor in family.tensors:
        if not has_tensor(tensor, architecture):
            continue
        if ("{n}" in tensor.hf) == (layer is not None) and fill(tensor.hf, layer) == name:
            return Row(tensor, layer)
    return None


def rows(family: Family, architecture: Architecture) -> Iterator[Row]:
    """Every tensor of the model, ordered by Hugging Face name; the head too when it is tied."""
    found: list[Row] = []
    for tensor in (tensor for tensor in family.tensors if has_tensor(tensor, architecture)):
        layers: list[int | None] = list(range(architecture.num_layers)) if "{n}" in tensor.hf else [None]
        found += [Row(tensor, layer) for layer in layers]
    yield from sorted(found, key=lambda row: row.hf)


def embedding_row(family: Family) -> Row:
    """The row of the word embedding."""
    return next(Row(tensor, None) for tensor in family.tensors if tensor.own == ("embedding.weight",))


def is_ignored(family: Family, name: str) -> bool:
    """True for buffers of old Hugging Face files that carry no weights."""
    return any(re.fullmatch(pattern, name) for pattern in family.ignored_hf)


def why_not_cs(architecture: Architecture, release: Release | None = None) -> str:
    """Why no Cerebras checkpoint (of that release) can hold this model, empty when one can."""
    if not architecture.parallel_residual:
        return "its blocks add attention and feed-forward one after the other; the Cerebras model adds both at once"
    if (
        family_named(architecture.family).cs_constants["use_projection_bias_in_attention"]
        != architecture.attention_bias
    ):
        return "its attention has other biases than the Cerebras model of its family"
    if architecture.rope_theta != CS_ROPE_THETA:
        return f"its rotary base is {architecture.rope_theta:g}; Cerebras knows only {CS_ROPE_THETA:g}"
    if release is not None and release < _SCALED_ROPE and architecture.rope_scaling_factor != 1.0:
        factor = architecture.rope_scaling_factor
        return f"its rotary embedding is scaled by {factor:g}; releases before 2.1 cannot"
    return ""
