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
    parameter_count,
    tensor_shape,
)

__all__ = [
    "FAMILIES",
    "Architecture",
    "Config",
    "Family",
    "Tensor",
    "detect",
    "expected_tensors",
    "family_named",
    "parameter_count",
    "tensor_shape",
]

FAMILIES: tuple[Family, ...] = (gptj.FAMILY, gpt_neox.FAMILY)


def family_named(name: str, *, field: str = "model") -> Family:
    """The family called `name`.

    Raises:
        InvalidInputError: there is none.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise InvalidInputError("unknown model family", field=field, value=name, remedy=f"Use one of: {known}.")


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
