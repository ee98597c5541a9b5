"""Tensors under the names of this project's decoder, from either naming and back.

The decoder takes q, k and v apart, as Cerebras does, and pairs the rows of a head as its architecture says. So Hugging
Face tensors come to it as they would go to Cerebras, but for the order of rows within a head, which stays; Cerebras
tensors come as they are, for a decoder that pairs neighbouring rows whatever the family. That the two decoders then
compute the same is the proof that the rows went where they should.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from regraft.families import Architecture, Family
from regraft.keymap import Row, rows
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import cs_to_hf, hf_to_cs, without_prefixes


def own_from_hf(family: Family, architecture: Architecture, tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Hugging Face tensors for a decoder of this architecture.

    Raises:
        InvalidDataError: tensors are missing, unknown or of another shape than the config says.
    """
    mapped = hf_to_cs(family, _rows_stay(architecture), tensors)
    return _renamed(family, architecture, {lazy.name: lazy for lazy in mapped.tensors})


def own_from_cs(family: Family, architecture: Architecture, tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Cerebras tensors for a decoder of `cs_architecture`, no value moved."""
    return _renamed(family, architecture, without_prefixes(tensors))


def cs_architecture(architecture: Architecture) -> Architecture:
    """The decoder that computes with Cerebras tensors: it pairs rows 2i and 2i + 1 of a head."""
    return replace(architecture, rotary_interleaved=True)


def own_to_hf(family: Family, architecture: Architecture, tensors: Mapping[str, Lazy]) -> list[Lazy]:
    """A decoder's tensors under Hugging Face names, ordered by name; a tied head is left out.

    Raises:
        InvalidDataError: tensors are missing, unknown or of another shape.
    """
    names = {own: cs for row in rows(family, architecture) for own, cs in zip(row.own, row.cs, strict=False)}
    state = {names.get(name, name): lazy for name, lazy in tensors.items()}
    return cs_to_hf(family, _rows_stay(architecture), state).tensors


def _rows_stay(architecture: Architecture) -> Architecture:
    # Of a model whose heads are interleaved already, both directions leave the rows where they are.
    return replace(architecture, rotary_interleaved=True)


def _renamed(family: Family, architecture: Architecture, state: Mapping[str, Lazy]) -> dict[str, Lazy]:
    found: dict[str, Lazy] = {}
    for row in rows(family, architecture):
        if row.is_head and architecture.tied_embeddings:
            continue
        for own, cs in zip(row.own, _names(row, state), strict=True):
            found[own] = replace(state[cs], name=own)
    return found


def _names(row: Row, state: Mapping[str, Lazy]) -> tuple[str, ...]:
    """The names to take a row's tensors from: of one that is stored twice, the copy that is there."""
    return next((name,) for name in row.cs if name in state) if row.stored_twice else row.cs
