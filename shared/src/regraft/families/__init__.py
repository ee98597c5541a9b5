"""Model families, one data file each. `detect` finds the one a Hugging Face config speaks of."""

from __future__ import annotations

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import gpt_neox, gptj
from regraft.families.base import (
    Architecture,
    Config,
    Family,
    Tensor,
    expected_tensors,
    has_tensor,
    parameter_count,
    tensor_shape,
)
from regraft.families.headless import headless

__all__ = [
    "FAMILIES",
    "HEADLESS",
    "Architecture",
    "Config",
    "Family",
    "Tensor",
    "detect",
    "expected_tensors",
    "family_named",
    "has_tensor",
    "parameter_count",
    "tensor_shape",
    "variant_named",
]

FAMILIES: tuple[Family, ...] = (gptj.FAMILY, gpt_neox.FAMILY)
HEADLESS: tuple[Family, ...] = tuple(headless(family) for family in FAMILIES)
"""The same without the head; only converted and exported, never trained, so no config is detected as one."""


def family_named(name: str, *, field: str = "model") -> Family:
    """The family called `name`.

    Raises:
        InvalidInputError: there is none.
    """
    return _named(name, FAMILIES, field=field)


def variant_named(name: str, *, field: str = "--model") -> Family:
    """Like `family_named`, headless variants included.

    Raises:
        InvalidInputError: there is none.
    """
    return _named(name, (*FAMILIES, *HEADLESS), field=field)


def detect(config: Config) -> Family:
    """The family of a Hugging Face `config.json`.

    Raises:
        InvalidDataError: `model_type` names none that is supported.
    """
    for family in FAMILIES:
        if config.get("model_type") == family.model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise InvalidDataError(
        "this kind of model is not supported",
        field="config.json: model_type",
        value=config.get("model_type"),
        remedy=f"Use a checkpoint of type {known}.",
        reason="unsupported_model",
    )


def _named(name: str, among: tuple[Family, ...], *, field: str) -> Family:
    for family in among:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in among)
    raise InvalidInputError("unknown model family", field=field, value=name, remedy=f"Use one of: {known}.")
