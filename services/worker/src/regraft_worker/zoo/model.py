"""The `model` section of a params file, of either form and any release: understood, or refused by the key's name.

Sizes and switches are read as the converter reads them. What is read here are the keys that no checkpoint has and that
training asks for: precision, scaling of the loss, dropout, initialisers. A key that only steers the vendor's compiler
or reports is named in `no_effect`; one that would compute something else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from regraft.errors import InvalidInputError
from regraft.families import FAMILIES, Architecture, Family
from regraft_worker.conversion.config_keys import DEFAULTS, FIXED, FROM_ARCHITECTURE, TRAINING
from regraft_worker.conversion.cs_config import detect_family, hf_config
from regraft_worker.model.activations import ACTIVATIONS
from regraft_worker.zoo.initial import Initializer, initializers_of
from regraft_worker.zoo.keys import Era, Section, flag, number, sort_keys, unknown_key

_NO_EFFECT = frozenset(("fold_rope_consts", "compute_eval_metrics", "scale_output_logits_by_d"))
_REFUSED = frozenset(("num_relative_attention_buckets",))
_USED = frozenset((*FROM_ARCHITECTURE, *FIXED, *TRAINING, *DEFAULTS, "name")) - _NO_EFFECT
_USED |= {key for family in FAMILIES for key in family.cs_constants}
_DROPOUT = ("embedding_dropout_rate", "attention_dropout_rate", "residual_dropout_rate")
_NUMBERS = (*_DROPOUT, "layer_norm_epsilon", "initializer_range", "pos_scaling_factor")
_SCALINGS = ("num_tokens", "batch_size")


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """What a section says."""

    family: Family
    config: dict[str, object]
    """The same as a Hugging Face config."""
    architecture: Architecture
    training: dict[str, object]
    """Fields of a training specification: precision, and where they are not the defaults, loss and dropout."""
    initializers: Mapping[str, Initializer]
    """Of a model that is trained from scratch."""
    no_effect: tuple[str, ...]
    """Keys that change nothing here."""
    notes: tuple[str, ...]
    """What is understood otherwise than written, for the user to read."""


def read_model(section: Section, *, era: Era, device: str) -> ZooModel:
    """Read the section for a run on a device; a key whose value is null is left out.

    Raises:
        InvalidInputError: a key is unknown, or its value asks for what the decoder does not have.
        InvalidDataError: sizes or switches are of no supported model.
    """
    quiet = sort_keys(section, "model", used=_USED, no_effect=_NO_EFFECT, refused=_REFUSED)
    given = {key: value for key, value in section.items() if value is not None}
    given |= {key: number(given, key, "model") for key in _NUMBERS if key in given}
    _refuse(given)
    family = detect_family(given)
    config = hf_config(given, family=family)
    architecture = family.read_config(config)
    notes: list[str] = []
    training = {"precision": _precision(given, era, device=device, notes=notes), **_loss(given, era, notes)}
    return ZooModel(
        family=family,
        config=config,
        architecture=architecture,
        training=training | _dropout(given, architecture),
        initializers=initializers_of(given, initializer_range=architecture.initializer_range),
        no_effect=tuple(quiet),
        notes=tuple(notes),
    )


def _refuse(section: Section) -> None:
    """What is the same in every model that there is, said by the key, which the converter does for all keys at once."""
    fixed = {**FIXED, "attention_softmax_fp32": True}
    del fixed["pos_scaling_factor"]  # a GPT-NeoX has it
    for key in fixed.keys() & section.keys():
        if section[key] != fixed[key]:
            raise InvalidInputError(
                f"the decoder has {fixed[key]!r} only, or nothing of the kind",
                field=f"model.{key}",
                value=section[key],
                remedy="Remove the key, if the model can do without it.",
            )
    if section.get("nonlinearity", "gelu") not in ACTIVATIONS:
        raise unknown_key(section["nonlinearity"], "model.nonlinearity", ACTIVATIONS)
    for key in _DROPOUT:
        rate = section.get(key, 0.0)
        if not isinstance(rate, float) or not 0 <= rate < 1:
            raise InvalidInputError("must be a rate from 0 to below 1", field=f"model.{key}", value=rate)


def _precision(section: Section, era: Era, *, device: str, notes: list[str]) -> str:
    if not flag(section, "mixed_precision", "model", default=False):
        return "fp32"
    kind = section.get("fp16_type", "bfloat16" if era != "1.8" or device == "cpu" else "float16")
    if kind not in ("float16", "bfloat16", "cbfloat16"):
        raise unknown_key(kind, "model.fp16_type", ("float16", "bfloat16", "cbfloat16"))
    if kind == "float16" and device != "cpu":
        return "fp16"
    if kind != "bfloat16":
        notes.append(f"fp16_type {kind} is computed as bfloat16 on {device.upper()}, with a loss scale of 1")
    return "bf16"


def _dropout(section: Section, architecture: Architecture) -> dict[str, object]:
    """What the Hugging Face config has no key for: GPT-NeoX's has one rate for two places."""
    rate = section.get("embedding_dropout_rate", DEFAULTS["embedding_dropout_rate"])
    return {} if rate == architecture.embedding_dropout else {"dropout": {"embedding": rate}}


def _loss(section: Section, era: Era, notes: list[str]) -> dict[str, object]:
    """Scaling and weight; a weight beside `num_tokens` means one thing in release 1.8 and another since."""
    scaling, weight = section.get("loss_scaling", "num_tokens"), number(section, "loss_weight", "model")
    if scaling not in _SCALINGS:
        raise unknown_key(scaling, "model.loss_scaling", _SCALINGS)
    if weight is not None and weight <= 0:
        raise InvalidInputError("must be above 0", field="model.loss_weight", value=weight)
    if scaling == "num_tokens" and weight not in (None, 1.0):
        if era != "1.8":
            notes.append(f"model.loss_weight {weight} is taken as 1.0, as with num_tokens in releases from 1.9 on")
            return {}
        notes.append("model.loss_scaling is taken as batch_size, because there is a loss_weight, as in release 1.8")
        scaling = "batch_size"
    if scaling == "num_tokens":
        return {}
    return {"loss": {"scaling": "batch_size", "weight": 1.0 if weight is None else weight}}
