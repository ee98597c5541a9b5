"""The `model:` section of a Cerebras cs-1.8 YAML, from an architecture and back to a Hugging Face config.

What the architecture says is written, so that a Hugging Face key left at its default comes out with its value. On the
way back nothing is guessed silently: sizes must be there, a key that is absent has Cerebras' own default, and
switches that the family does not have are refused. Other sections of a YAML (optimizer, data) are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import yaml

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import FAMILIES, Architecture, Family
from regraft.keymap import why_not_cs

_FROM_ARCHITECTURE: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_heads": "num_heads",
    "filter_size": "filter_size",
    "max_position_embeddings": "max_position_embeddings",
    "rotary_dim": "rotary_dim",
    "nonlinearity": "activation",
    "embedding_dropout_rate": "embedding_dropout",
    "attention_dropout_rate": "attention_dropout",
    "residual_dropout_rate": "residual_dropout",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "share_embedding_weights": "tied_embeddings",
}
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_heads", "filter_size", "max_position_embeddings")
# What the Model Zoo takes for a key that its YAML does not have.
_DEFAULTS: Mapping[str, object] = {
    "nonlinearity": "gelu",
    "embedding_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "residual_dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "share_embedding_weights": True,
    "use_untied_layer_norm": False,
    "use_projection_bias_in_attention": True,
    "use_ffn_bias_in_attention": True,
    "use_ffn_bias": False,
    "use_bias_in_output": False,
}
# The same in every supported model; a file may leave them out.
_FIXED: Mapping[str, object] = {
    "position_embedding_type": "rotary",
    "attention_type": "scaled_dot_product",
    "norm_type": "layernorm",
    "use_biasless_norm": False,
    "embedding_layer_norm": False,
    "rope_theta": 10000,
    "pos_scaling_factor": 1.0,
}


def write_config(path: Path, config: Mapping[str, object], *, family: Family, architecture: Architecture) -> None:
    """Write the YAML of a Hugging Face config, in release 1.8's words and layout.

    Raises:
        InvalidInputError: no Cerebras model is like this one.
    """
    section = model_section(config, family=family, architecture=architecture)
    path.write_text(yaml.safe_dump({"model": section}, indent=4, sort_keys=True), encoding="utf-8")


def model_section(config: Mapping[str, object], *, family: Family, architecture: Architecture) -> dict[str, object]:
    """The content of `model:`."""
    cause = why_not_cs(architecture)
    if cause:
        raise InvalidInputError(
            f"this model cannot be written as a Cerebras checkpoint: {cause}",
            field="output.formats",
            value="cs-1.8",
            remedy="Export it as hf.",
            reason="not_expressible_in_cs",
        )
    section: dict[str, object] = {key: getattr(architecture, name) for key, name in _FROM_ARCHITECTURE.items()}
    section |= {**family.cs_constants, "mixed_precision": True}
    if section.get("use_untied_layer_norm") is False:
        del section["use_untied_layer_norm"]  # release 1.8 leaves it out; it is the default
    if "rotary" in config:
        section["position_embedding_type"] = "rotary"
    return section


def read_section(path: Path) -> dict[str, object]:
    """The `model:` section of a YAML.

    Raises:
        InvalidInputError: the file is not there.
        InvalidDataError: it has no such section.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(
            "the config cannot be read", field="config", value=str(path), remedy="Name a readable YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _bad_section(f"{path.name} is not valid YAML", value=str(path)) from error
    section = content.get("model") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise _bad_section(f"{path.name} has no section 'model'", value=str(path))
    return section


def hf_config(section: Mapping[str, object], *, family: Family | None = None) -> dict[str, object]:
    """The Hugging Face config of a `model:` section; the family is detected unless given.

    Raises:
        InvalidDataError: a key is missing, or the switches are of no supported model.
    """
    family = family or _detect(section)
    wrong = _mismatches(section, family)
    if wrong:
        raise _bad_section(f"this is no {family.name}: {'; '.join(wrong)}", value=family.name)
    complete = _complete(section)
    config = {key: complete[cs] for key, cs in family.config_to_cs.items()}
    if "rotary_dim" not in family.config_to_cs.values():
        config["rotary_pct"] = _share(complete)
    config |= {"model_type": family.model_type, "architectures": list(family.architectures)}
    _check_back(complete, config, family)
    return config


def _detect(section: Mapping[str, object]) -> Family:
    wrong = {family.name: _mismatches(section, family) for family in FAMILIES}
    for family in FAMILIES:
        if not wrong[family.name] and section.get("name", family.name) == family.name:
            return family
    reasons = " / ".join(f"{name}: {', '.join(why) or 'another name'}" for name, why in wrong.items())
    raise _bad_section(f"the switches are of no supported model ({reasons})", value=section.get("name"))


def _mismatches(section: Mapping[str, object], family: Family) -> list[str]:
    required = {**_FIXED, **family.cs_constants}
    found = {key: section.get(key, _DEFAULTS.get(key, required[key])) for key in required}
    return [f"{key} is {found[key]!r}, not {value!r}" for key, value in required.items() if found[key] != value]


def _complete(section: Mapping[str, object]) -> dict[str, object]:
    for key in _SIZES:
        value = section.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _bad_section("must be a whole number of at least 1", field=key, value=value)
    complete = {**_DEFAULTS, **section}
    if complete.get("rotary_dim") is None:
        complete["rotary_dim"] = _head_dim(complete) // 4
    return complete


def _head_dim(section: Mapping[str, object]) -> int:
    hidden, heads = section["hidden_size"], section["num_heads"]
    assert isinstance(hidden, int), "sizes are checked"
    assert isinstance(heads, int), "sizes are checked"
    return hidden // heads


def _share(section: Mapping[str, object]) -> float:
    """rotary_dim as a share of the head that gives rotary_dim again when it is multiplied and cut off."""
    rotary, head = section["rotary_dim"], max(_head_dim(section), 1)
    if not isinstance(rotary, int) or isinstance(rotary, bool):
        raise _bad_section("must be a whole number", field="rotary_dim", value=rotary)
    share = rotary / head
    return share if int(head * share) == rotary else math.nextafter(share, math.inf)


def _check_back(section: Mapping[str, object], config: Mapping[str, object], family: Family) -> None:
    architecture = family.read_config(config)
    for key in (*family.config_to_cs.values(), "rotary_dim"):
        if getattr(architecture, _FROM_ARCHITECTURE[key]) != section[key]:
            raise _bad_section("cannot be expressed in a Hugging Face config", field=key, value=section[key])


def _bad_section(message: str, *, value: object, field: str = "") -> InvalidDataError:
    return InvalidDataError(
        message,
        field=f"model.{field}" if field else "config",
        value=value,
        remedy="Use the YAML that belongs to this checkpoint.",
        reason="unsupported_config",
    )
