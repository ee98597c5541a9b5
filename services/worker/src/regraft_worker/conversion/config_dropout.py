"""Dropout rates where the original tool and Hugging Face mean different things by the same config.

The tool decides what is written, because its users expect its file, and each rate that differs is named. The stages of
a job have nothing to do with it: they keep the rates that a checkpoint was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from regraft.families import Architecture, Family
from regraft_worker.conversion.config_keys import DEFAULTS

_EMBEDDING, _RESIDUAL = "embedding_dropout_rate", "residual_dropout_rate"
_RATES = (_EMBEDDING, "attention_dropout_rate", _RESIDUAL)

Said = tuple[str, ...]


def rates_of_the_tool(
    section: Mapping[str, object], config: Mapping[str, object], *, family: Family, release: tuple[int, int]
) -> tuple[dict[str, object], Said]:
    """The section with the rates that the tool writes for this Hugging Face config, and what the user should know."""
    if family.cs_name == "gptj":
        of_hf = {cs: key for key, cs in family.config_to_cs.items()}
        changed = {key: DEFAULTS[key] for key in _RATES if of_hf[key] not in config}
        why = "written as 0.1, which the original tool takes for absent rates and Hugging Face for 0"
    else:
        changed = {key: 0.0 for key in _RATES if section[key] != 0.0 and release < (2, 0)}
        why = "written as 0, as the original tool does for GPT-NeoX before 2.0"
    note = f"dropout rates {why}: {', '.join(changed)}"
    return {**section, **changed}, (note,) if changed else ()


def without_rates(architecture: Architecture) -> Architecture:
    """What both formats have to say alike; rates need not be, and change nothing that is computed without training."""
    return replace(architecture, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0)


def rates_that_are_lost(section: Mapping[str, object], *, family: Family) -> Said:
    """What Hugging Face has no key for: GPT-NeoX has one rate for the embedding and the residual."""
    rates = {**DEFAULTS, **section}
    if _EMBEDDING in family.config_to_cs.values() or rates[_EMBEDDING] == rates[_RESIDUAL]:
        return ()
    return (
        f"{_EMBEDDING} {rates[_EMBEDDING]} is lost: Hugging Face's hidden_dropout {rates[_RESIDUAL]} is the rate "
        "of the embedding too",
    )
