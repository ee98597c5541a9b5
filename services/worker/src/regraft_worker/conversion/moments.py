"""The state of a training run beside its weights: optimizer moments under their weights' names, step and schedules.

A Cerebras checkpoint numbers its parameters: in the order of the model's modules, the decayed ones (all but biases and
norms) before the others when there are two groups. The order is a table here; it is that of the files which releases
1.8 and 2.10 wrote for GPT-J. For GPT-NeoX it is the order of the modules in the published source, not of a file.

A moment goes wherever its weight goes, so both directions are `hf_to_cs` and `cs_to_hf` under parameter names.
Schedules, scaler and data loader are carried as they are found: what they hold differs between releases, and nothing
here computes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from regraft.families import Architecture, Family
from regraft.keymap import Row, fill, rows
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.mapping import Mapped, cs_to_hf, hf_to_cs, not_as_expected

MOMENTS = ("exp_avg", "exp_avg_sq")
_POWERS = ("beta1_power", "beta2_power")
_CARRIED = ("lr_scheduler.", "schedulers.", "grad_scaler.", "scaler.", "dataloader.")
# As a Cerebras model's modules stand in a layer.
_IN_LAYER = (
    "self_attn.proj_q_dense_layer",
    "self_attn.proj_k_dense_layer",
    "self_attn.proj_v_dense_layer",
    "self_attn.proj_output_dense_layer",
    "norm1",
    "norm3",
    "ffn.ffn.0.linear_layer",
    "ffn.ffn.1.linear_layer",
)
_LAYER = "transformer_decoder.layers.{n}."


@dataclass(frozen=True, kw_only=True)
class TrainedState:
    """What a run needs to go on, besides its weights."""

    global_step: int
    exp_avg: Mapping[str, Lazy]
    """By Hugging Face name."""
    exp_avg_sq: Mapping[str, Lazy]
    beta1_power: float
    """beta1 to the power of one more than the steps made: what the next step divides by."""
    beta2_power: float
    groups: tuple[Mapping[str, object], ...] = ()
    """Hyper-parameters of the decayed parameters and of the others, without the parameters' numbers."""
    values: Mapping[str, object] = field(default_factory=dict)
    """Schedules, scaler and data loader under their dotted names."""
    tensors: Mapping[str, Lazy] = field(default_factory=dict)
    """The same, where they are tensors."""


def parameter_names(family: Family, architecture: Architecture, *, groups: int = 2) -> list[str]:
    """Cerebras names without `model.`, each at its number; a tensor with two names has the one that comes first."""
    names = _in_module_order(family, architecture)
    if groups == 1:
        return names
    return [name for name in names if _is_decayed(name)] + [name for name in names if not _is_decayed(name)]


def decayed_count(family: Family, architecture: Architecture) -> int:
    """How many parameters the first of two groups has."""
    return sum(map(_is_decayed, parameter_names(family, architecture)))


def read_trained(
    family: Family, architecture: Architecture, tensors: Mapping[str, Lazy], values: Mapping[str, object]
) -> TrainedState | None:
    """The state in a trained Cerebras checkpoint, given as dotted names; None when it holds weights only.

    Raises:
        InvalidDataError: it has not the parameters that the config speaks of.
    """
    if "optimizer.state.0.exp_avg" not in tensors:
        return None
    groups = _groups(tensors, values)
    names = parameter_names(family, architecture, groups=len(groups))
    _check_count(tensors, len(names))
    moments = [_to_hf(family, architecture, tensors, names, moment) for moment in MOMENTS]
    beta1, beta2 = (_number(tensors, values, f"optimizer.state.0.{power}") for power in _POWERS)
    return TrainedState(
        global_step=int(_number(tensors, values, "global_step")),
        exp_avg=moments[0],
        exp_avg_sq=moments[1],
        beta1_power=beta1,
        beta2_power=beta2,
        groups=groups,
        values={name: value for name, value in values.items() if name.startswith(_CARRIED)},
        tensors={name: replace(lazy, name=name) for name, lazy in tensors.items() if name.startswith(_CARRIED)},
    )


def write_trained(
    family: Family, architecture: Architecture, state: TrainedState
) -> tuple[list[Lazy], dict[str, object]]:
    """Tensors and values beside `model` in a trained Cerebras checkpoint, under dotted names.

    The powers are tensors of fp32 as Cerebras stores them; hyper-parameters are what `groups` holds.
    """
    names = parameter_names(family, architecture, groups=len(state.groups) or 2)
    moments = [_to_cs(family, architecture, found) for found in (state.exp_avg, state.exp_avg_sq)]
    powers = [torch.tensor(power, dtype=torch.float32) for power in (state.beta1_power, state.beta2_power)]
    tensors: list[Lazy] = []
    for number, name in enumerate(names):
        prefix = f"optimizer.state.{number}."
        tensors += [replace(found[name], name=prefix + key) for key, found in zip(MOMENTS, moments, strict=True)]
        tensors += [of_tensor(prefix + key, power) for key, power in zip(_POWERS, powers, strict=True)]
    values = dict(_group_values(state.groups, decayed_count(family, architecture), len(names)))
    return [*tensors, *state.tensors.values()], values | dict(state.values) | {"global_step": state.global_step}


def _to_hf(
    family: Family, architecture: Architecture, tensors: Mapping[str, Lazy], names: list[str], moment: str
) -> dict[str, Lazy]:
    of_parameters = {name: tensors[f"optimizer.state.{number}.{moment}"] for number, name in enumerate(names)}
    return _by_name(cs_to_hf(family, architecture, of_parameters))


def _to_cs(family: Family, architecture: Architecture, moments: Mapping[str, Lazy]) -> dict[str, Lazy]:
    mapped = hf_to_cs(family, architecture, moments)
    found = _by_name(mapped)
    return found | {alias: found[target] for alias, target in mapped.aliases.items()}


def _by_name(mapped: Mapped) -> dict[str, Lazy]:
    return {lazy.name: lazy for lazy in mapped.tensors}


def _in_module_order(family: Family, architecture: Architecture) -> list[str]:
    places = {name: row for row in rows(family, architecture) for name in row.cs}
    modules = ["embedding_layer.word_embeddings", "ln_f"]
    for layer in range(architecture.num_layers):
        modules += [fill(_LAYER + module, layer) for module in _IN_LAYER]
    modules.append("lm_head")
    names = [f"{module}.{part}" for module in modules for part in ("weight", "bias")]
    return [name for name in names if name in places and not _is_tied(places[name], architecture)]


def _is_tied(row: Row, architecture: Architecture) -> bool:
    return row.is_head and architecture.tied_embeddings


def _is_decayed(name: str) -> bool:
    return name.endswith(".weight") and "norm" not in name and not name.startswith("ln_f.")


def _check_count(tensors: Mapping[str, Lazy], expected: int) -> None:
    for moment in MOMENTS:
        found = sum(name.startswith("optimizer.state.") and name.endswith(f".{moment}") for name in tensors)
        if found != expected:
            raise not_as_expected(f"the optimizer should have '{moment}' of {expected} parameters", value=found)


def _groups(tensors: Mapping[str, Lazy], values: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """Hyper-parameters by group, scalars as numbers."""
    groups: dict[int, dict[str, object]] = {}
    for name in (*values, *tensors):
        if name.startswith("optimizer.param_groups."):
            number, _, key = name.removeprefix("optimizer.param_groups.").partition(".")
            group = groups.setdefault(int(number), {})
            if not key.startswith("params"):
                group[key] = values[name] if name in values else tensors[name].whole().item()
    return tuple(groups[number] for number in sorted(groups)) or ({}, {})


def _group_values(
    groups: tuple[Mapping[str, object], ...], decayed: int, parameters: int
) -> Iterator[tuple[str, object]]:
    spans = [range(parameters)] if len(groups) == 1 else [range(decayed), range(decayed, parameters)]
    for number, (group, span) in enumerate(zip(groups, spans, strict=bool(groups))):
        prefix = f"optimizer.param_groups.{number}."
        yield from ((prefix + key, value) for key, value in group.items())
        yield from ((f"{prefix}params.{place}", parameter) for place, parameter in enumerate(span))


def _number(tensors: Mapping[str, Lazy], values: Mapping[str, object], name: str) -> float:
    value = values[name] if name in values else tensors[name].whole().item() if name in tensors else None
    if not isinstance(value, int | float):
        raise not_as_expected(f"'{name}' should be a number", value=value)
    return value
