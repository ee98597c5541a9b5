"""Kinds of values of a params file, and the checks that both of its forms share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Kinds = Mapping[str, str]
_TYPES: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
_PARTS = {
    "constant": "learning_rate",
    "linear": "initial_learning_rate end_learning_rate",
    "polynomial": "initial_learning_rate end_learning_rate power cycle",
    "cosinedecay": "initial_learning_rate end_learning_rate",
    "exponential": "initial_learning_rate decay_rate staircase",
    "inversesquarerootdecay": "initial_learning_rate scale warmup_steps",
    "piecewiseconstant": "learning_rates milestones",
}


class BadParamsError(Exception):
    """The file is refused."""


def keys(kind: str, words: str) -> dict[str, str]:
    """Keys of one kind; `str*` is a list of texts, `int|bool` one of two kinds."""
    return dict.fromkeys(words.split(), kind)


def check_section(section: Any, kinds: Kinds, where: str) -> None:
    """Every key is known and every value of its kind."""
    if not isinstance(section, dict):
        raise BadParamsError(f"{where} is no section")
    for key, value in section.items():
        if key not in kinds:
            raise BadParamsError(f"Additional properties are not allowed ({key!r} was unexpected in {where})")
        if value is not None and not any(_is_of(value, kind) for kind in kinds[key].split("|")):
            raise BadParamsError(f"{where}.{key}: {value!r} is not of type {kinds[key]!r}")


def check_sizes(model: dict[str, Any], where: str) -> None:
    """The keys without which there is no model."""
    for key in ("vocab_size", "hidden_size", "num_heads", "num_hidden_layers", "filter_size"):
        if not isinstance(model.get(key), int):
            raise BadParamsError(f"{where}.{key} is required")


def check_steps(loop: dict[str, Any], where: str, saved: Any) -> None:
    """There is an end, and evaluating and saving fall together."""
    if loop.get("num_steps") is not None and loop.get("num_epochs") is not None:
        raise BadParamsError(f"{where}: num_steps and num_epochs exclude each other")
    every = loop.get("eval_frequency")
    if every and saved and every % saved and saved % every:
        raise BadParamsError(f"{where}.eval_frequency and checkpoint steps must divide one another")


def check_part(name: str, options: Any, length: str, where: str) -> None:
    """One part of a schedule of learning rates."""
    kind = name.removesuffix("LR").lower()
    if kind not in _PARTS:
        raise BadParamsError(f"{where}: no scheduler {name!r}")
    allowed = keys("any", f"{_PARTS[kind]} {length}")
    check_section(options, allowed, f"{where}.{name}")


def _is_of(value: Any, kind: str) -> bool:
    if kind == "any":
        return True
    if kind.endswith("*"):
        return isinstance(value, list) and all(_is_of(item, kind[:-1]) for item in value)
    return isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
