"""The `model:` section of a Cerebras YAML of any release, from an architecture and back to a Hugging Face config.

What the architecture says is written, so that a Hugging Face key left at its default comes out with its value. On the
way back nothing is guessed silently: sizes must be there, a key that is absent has Cerebras' own default, and
switches that the family does not have are refused, each by name. Other sections of a YAML (optimizer, data) are not
read. Which keys are in question at all, and what a release changes in them, is in `config_keys`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import yaml

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import FAMILIES, Architecture, Family
from regraft.keymap import why_not_cs
from regraft_worker.conversion.config_keys import DEFAULTS, FIXED, FROM_ARCHITECTURE, SIZES
from regraft_worker.conversion.formats import FORMATS, Format


def section_yaml(section: Mapping[str, object]) -> str:
    """A file with this `model:` section, laid out as the original tool does it."""
    return yaml.safe_dump({"model": dict(section)}, indent=4, sort_keys=True)


def model_section(
    config: Mapping[str, object],
    *,
    family: Family,
    architecture: Architecture,
    target: Format = FORMATS["cs-1.8"],
    field: str = "output.formats",
) -> dict[str, object]:
    """The content of `model:` for a release, from a Hugging Face config.

    Raises:
        InvalidInputError: no Cerebras model of that release is like this one.
    """
    release = target.release
    assert release is not None, "a Cerebras format"
    cause = why_not_cs(architecture, release)
    if cause:
        raise InvalidInputError(
            f"this model cannot be written as a Cerebras checkpoint: {cause}",
            field=field,
            value=target.name,
            remedy="Keep it as hf.",
            reason="not_expressible_in_cs",
        )
    section: dict[str, object] = {key: getattr(architecture, name) for key, name in FROM_ARCHITECTURE.items()}
    section |= family.cs_constants
    if release < (2, 0):
        section["mixed_precision"] = True
        if section["use_untied_layer_norm"] is False:
            del section["use_untied_layer_norm"]  # the releases before 2.0 leave it out; it is the default
    else:
        section.pop("position_embedding_type", None)
    if "rotary" in config:
        section["position_embedding_type"] = "rotary"
    if release >= (2, 1) and family.scales_rope:
        section["pos_scaling_factor"] = architecture.rope_scaling_factor
    if release >= (2, 4):
        section["name"] = family.cs_name
    return section


def read_section(path: Path) -> dict[str, object]:
    """The `model:` section of a YAML, or in the trainer form of release 2.3 and later `trainer.init.model`.

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
        raise bad_section(f"{path.name} is not valid YAML", value=str(path)) from error
    section = _inside(content, "model") or _inside(content, "trainer", "init", "model")
    if not isinstance(section, dict):
        raise bad_section(f"{path.name} has no section 'model'", value=str(path))
    return section


def hf_config(section: Mapping[str, object], *, family: Family | None = None) -> dict[str, object]:
    """The Hugging Face config of a `model:` section; the family is detected unless given.

    Raises:
        InvalidDataError: a key is missing, or the switches are of no supported model.
    """
    family = family or detect_family(section)
    check_constants(section, family)
    complete = _complete(section)
    config = {key: complete[cs] for key, cs in family.config_to_cs.items()}
    if "rotary_dim" not in family.config_to_cs.values():
        config["rotary_pct"] = _share(complete)
    if complete["pos_scaling_factor"] != 1.0:
        config["rope_scaling"] = {"type": "linear", "factor": complete["pos_scaling_factor"]}
    config |= {"model_type": family.model_type, "architectures": list(family.architectures)}
    _check_back(complete, config, family)
    return config


def hf_json(section: Mapping[str, object], *, family: Family, source: Format) -> str:
    """The `config.json` that the original tool makes of a section: no `architectures`, and before 2.0 no `model_type`.

    Raises:
        InvalidDataError: as `hf_config`.
    """
    config = {**hf_config(section, family=family), **family.hf_constants}
    del config["architectures"]
    model_type = {"model_type": config.pop("model_type")} if source.era == "hdf5" else {}
    config.pop("model_type", None)
    # Keys stand in the order of their Cerebras names.
    ordered = sorted(config, key=lambda key: family.config_to_cs.get(key, key))
    return json.dumps({key: config[key] for key in ordered} | model_type, indent=4)


def detect_family(section: Mapping[str, object]) -> Family:
    """The family whose switches a section has.

    Raises:
        InvalidDataError: it is none of ours.
    """
    wrong = {family.name: _mismatches(section, family) for family in FAMILIES}
    for family in FAMILIES:
        if not wrong[family.name] and section.get("name", family.name) == family.name:
            return family
    reasons = " / ".join(f"{name}: {', '.join(why) or 'another name'}" for name, why in wrong.items())
    raise bad_section(f"the switches are of no supported model ({reasons})", value=section.get("name"))


def check_constants(section: Mapping[str, object], family: Family) -> None:
    """Refuse a section that switches on what the family does not have.

    Raises:
        InvalidDataError: naming each such key, its value, and the family's.
    """
    wrong = _mismatches(section, family)
    if section.get("name", family.cs_name) != family.cs_name:
        wrong.append(f"name is {section['name']!r}, not {family.cs_name!r}")
    if wrong:
        raise bad_section(f"this is no {family.cs_name}: {'; '.join(wrong)}", value=family.cs_name)


def bad_section(message: str, *, value: object, field: str = "") -> InvalidDataError:
    """An error about a `model:` section, or one key of it."""
    return InvalidDataError(
        message,
        field=f"model.{field}" if field else "config",
        value=value,
        remedy="Use the YAML that belongs to this checkpoint.",
        reason="unsupported_config",
    )


def _inside(content: object, *keys: str) -> object:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _mismatches(section: Mapping[str, object], family: Family) -> list[str]:
    required = {**FIXED, **family.cs_constants}
    if family.scales_rope:
        del required["pos_scaling_factor"]
    given = {key: value for key, value in section.items() if not (key in FIXED and value is None)}  # None: the default
    found = {key: given.get(key, DEFAULTS.get(key, required[key])) for key in required}
    return [f"{key} is {found[key]!r}, not {value!r}" for key, value in required.items() if found[key] != value]


def _complete(section: Mapping[str, object]) -> dict[str, object]:
    for key in SIZES:
        value = section.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise bad_section("must be a whole number of at least 1", field=key, value=value)
    complete = {**DEFAULTS, **section}
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
        raise bad_section("must be a whole number", field="rotary_dim", value=rotary)
    share = rotary / head
    return share if int(head * share) == rotary else math.nextafter(share, math.inf)


def _check_back(section: Mapping[str, object], config: Mapping[str, object], family: Family) -> None:
    architecture = family.read_config(config)
    for key in (*family.config_to_cs.values(), "rotary_dim"):
        if getattr(architecture, FROM_ARCHITECTURE[key]) != section[key]:
            raise bad_section("cannot be expressed in a Hugging Face config", field=key, value=section[key])
