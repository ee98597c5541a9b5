"""A Model Zoo `model` section, flat or trainer form, any release, as a model to train: or a refusal that names the key.

Sizes and switches are read as the converter reads them. Here come the keys that no checkpoint has and that training
asks for: initializers, loss scaling, precision of the softmax. A key that only steers the vendor's compiler is accepted
and named in `notes`; what would compute something else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family
from regraft.specs import LossSpec
from regraft_worker.conversion.config_keys import DEFAULTS, refuse_unmatched, unmatched_cs
from regraft_worker.conversion.cs_config import bad_section, detect_family, hf_config
from regraft_worker.model.activations import ACTIVATIONS
from regraft_worker.model.initial import Initializer, Initializers, Kind, default_initializers, truncated_normal

Section = Mapping[str, object]
_KINDS: Mapping[str, Kind] = {
    "truncated_normal": "truncated_normal",
    "normal": "normal",
    "uniform": "uniform",
    "constant": "constant",
    "zeros": "constant",
    "ones": "constant",
}
_NO_EFFECT = ("fold_rope_consts", "compute_eval_metrics", "scale_output_logits_by_d")


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """What a section says."""

    family: Family
    config: Mapping[str, object]
    """The same as a Hugging Face config."""
    architecture: Architecture
    loss: LossSpec
    initializers: Initializers
    notes: tuple[str, ...]
    """What was understood otherwise than written, for the user to read."""


def read_zoo_model(section: Section) -> ZooModel:
    """Read a `model` section (`model:` of a flat file, `trainer.init.model` of the trainer form).

    Raises:
        InvalidDataError: a key is unknown, or its value asks for what the decoder does not have; names it.
    """
    family = detect_family(section)
    refuse_unmatched(unmatched_cs(section, family), drop=False)
    config = hf_config(section, family=family)
    architecture = _with_embedding_dropout(family.read_config(config), section)
    if architecture.activation not in ACTIVATIONS:
        raise bad_section(
            f"unknown; the decoder has {', '.join(ACTIVATIONS)}", field="nonlinearity", value=architecture.activation
        )
    if section.get("attention_softmax_fp32", True) is not True:
        raise bad_section("the softmax of attention is computed in fp32", field="attention_softmax_fp32", value=False)
    loss, notes = _loss(section)
    notes += [f"{key} changes no result here" for key in _NO_EFFECT if key in section]
    return ZooModel(
        family=family,
        config=config,
        architecture=architecture,
        loss=loss,
        initializers=_initializers(section, architecture.initializer_range),
        notes=tuple(notes),
    )


def _with_embedding_dropout(architecture: Architecture, section: Section) -> Architecture:
    # A Hugging Face GPT-NeoX config has one rate for two places, so the converter cannot carry this key.
    rate = section.get("embedding_dropout_rate", DEFAULTS["embedding_dropout_rate"])
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise bad_section("must be a rate from 0 to below 1", field="embedding_dropout_rate", value=rate)
    return replace(architecture, embedding_dropout=float(rate))


def _loss(section: Section) -> tuple[LossSpec, list[str]]:
    """Scaling and weight. A weight beside `num_tokens` means one thing before release 2.0 and another from it on."""
    scaling, weight = section.get("loss_scaling", "num_tokens"), section.get("loss_weight", 1.0)
    if scaling not in ("num_tokens", "batch_size"):
        raise bad_section("must be num_tokens or batch_size", field="loss_scaling", value=scaling)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or weight <= 0:
        raise bad_section("must be a number above 0", field="loss_weight", value=weight)
    if scaling == "batch_size":
        return LossSpec(scaling="batch_size", weight=float(weight)), []
    if weight == 1.0:
        return LossSpec(), []
    if _is_flat_era(section):
        note = f"loss_weight {weight} with loss_scaling num_tokens is read as batch_size, as release 1.8 does"
        return LossSpec(scaling="batch_size", weight=float(weight)), [note]
    return LossSpec(), [f"loss_weight {weight} with loss_scaling num_tokens is read as 1.0, as releases from 2.0 on do"]


def _is_flat_era(section: Section) -> bool:
    # Releases before 2.0 keep the precision in the model section; only those know `use_biasless_norm`.
    return isinstance(section.get("mixed_precision"), bool) or "use_biasless_norm" in section


def _initializers(section: Section, initializer_range: float) -> Initializers:
    usual = default_initializers(initializer_range)
    projection = _initializer(section, "initializer") or usual.projection
    output = _initializer(section, "output_layer_initializer") or usual.attention_output
    return Initializers(
        embedding=_initializer(section, "embedding_initializer") or usual.embedding,
        projection=projection,
        attention_output=output,
        up=_initializer(section, "ffn_initializer") or output,
        down=_initializer(section, "ffn_output_layer_initializer") or output,
        head=usual.head,
    )


def _initializer(section: Section, key: str) -> Initializer | None:
    given = section.get(key)
    if given is None:
        return None
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping):
        raise bad_section("must be an object with a name", field=key, value=given)
    known = {"name", "mean", "std", "a", "b", "val"}
    if unknown := sorted(map(str, given.keys() - known)):
        raise bad_section(f"has unknown keys: {', '.join(unknown)}", field=key, value=dict(given))
    name = given.get("name", "truncated_normal")
    if name not in _KINDS:
        raise bad_section(f"must be one of {', '.join(_KINDS)}", field=f"{key}.name", value=name)
    if name in ("zeros", "ones"):
        return Initializer(kind="constant", mean=float(name == "ones"), low=0.0, high=0.0)
    return _distribution(given, key, cast("Literal['truncated_normal', 'normal', 'uniform', 'constant']", name))


def _distribution(given: Section, key: str, kind: Kind) -> Initializer:
    std = _number(given, key, "std", 1.0)
    cut = truncated_normal(std) if kind == "truncated_normal" else Initializer(kind=kind, std=std, low=0.0, high=1.0)
    low, high = _number(given, key, "a", cut.low), _number(given, key, "b", cut.high)
    if std < 0 or low > high:
        raise bad_section("must have std of at least 0 and a up to b", field=key, value=dict(given))
    mean = _number(given, key, "val" if kind == "constant" else "mean", 0.0)
    return Initializer(kind=kind, mean=mean, std=std, low=low, high=high)


def _number(given: Section, key: str, name: str, default: float) -> float:
    value = given.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidDataError(
            "must be a number",
            field=f"model.{key}.{name}",
            value=value,
            remedy="Write it as a plain number.",
            reason="unsupported_config",
        )
    return float(value)
