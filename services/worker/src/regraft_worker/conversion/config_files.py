"""One config file in the words of another format: what `convert-config` does, and `convert` beside the weights.

The result says what was left behind, key by key, because a config that lost something still loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.checkpoint_files import read_json
from regraft.checkpoint_info import read_architecture
from regraft.errors import InvalidInputError
from regraft.families import FAMILIES, HEADLESS, Architecture, Family, detect, family_named
from regraft_worker.conversion.config_dropout import rates_of_the_tool, rates_that_are_lost
from regraft_worker.conversion.config_keys import (
    TRAINING,
    refuse_unmatched,
    section_of_release,
    unmatched_cs,
    unmatched_hf,
)
from regraft_worker.conversion.cs_config import (
    check_constants,
    detect_family,
    hf_config,
    hf_json,
    model_section,
    read_section,
    section_yaml,
)
from regraft_worker.conversion.formats import Format


@dataclass(frozen=True, kw_only=True)
class ConvertedConfig:
    """A config in its new words, and the model that it speaks of."""

    family: Family
    architecture: Architecture
    text: str
    """The file to write: YAML or JSON."""
    notes: tuple[str, ...]
    """What did not go over."""


def convert_config(path: Path, *, model: Family | None, source: Format, target: Format, drop: bool) -> ConvertedConfig:
    """Convert a `config.json` or a YAML; the family is detected unless given.

    Raises:
        InvalidInputError: there is no such file, or the target has no words for the model.
        InvalidDataError: it is no config of a supported model, or has unknown keys and `drop` is false.
    """
    if source.is_cs:
        return _from_cs(path, model, source=source, target=target, drop=drop)
    return _from_hf(path, model, target=target, drop=drop)


def read_written(path: Path, *, family: Family, target: Format) -> Architecture:
    """The model that a converted config speaks of, read back from its file.

    Raises:
        InvalidDataError: it is of no supported model.
    """
    if target.is_cs:
        config = hf_config(read_section(path), family=family)
    else:
        config = {"model_type": family.model_type, **read_json(path, field="config")}  # for release 1.8 there is none
    return read_architecture(config)[1]


def _from_hf(path: Path, model: Family | None, *, target: Format, drop: bool) -> ConvertedConfig:
    if not path.is_file():
        raise InvalidInputError(
            "the config cannot be read", field="--config", value=str(path), remedy="Name a readable config.json."
        )
    config = read_json(path, field="--config")
    if model is not None:
        config.setdefault("model_type", model.model_type)  # release 1.8 writes none
    family = _checked(model, _detected_hf(config))
    _, architecture = read_architecture(config)
    unknown = unmatched_hf(config, family)
    refuse_unmatched(unknown, drop=drop)
    section = model_section(config, family=family, architecture=architecture, target=target, field="--tgt-fmt")
    assert target.release is not None, "a Cerebras format"
    section, rates = rates_of_the_tool(section, config, family=family, release=target.release)
    notes = (*_notes(unknown), *rates)
    return ConvertedConfig(family=family, architecture=architecture, text=section_yaml(section), notes=notes)


def _from_cs(path: Path, model: Family | None, *, source: Format, target: Format, drop: bool) -> ConvertedConfig:
    section = read_section(path)
    family = model or detect_family(section)
    check_constants(section, family)
    unknown = unmatched_cs(section, family)
    refuse_unmatched(unknown, drop=drop)
    _, architecture = read_architecture(hf_config(section, family=family))
    section = {key: value for key, value in section.items() if key not in unknown}
    if target.is_cs:
        section, gone = section_of_release(section, family=family, target=target)
        text, notes = section_yaml(section), _notes(unknown, gone, why=f"{target.name} has no place for")
    else:
        training = tuple(sorted(section.keys() & TRAINING))
        text = hf_json(section, family=family, source=source)
        notes = _notes(unknown, training, why="a Hugging Face config has no place for")
        notes += rates_that_are_lost(section, family=family)
    return ConvertedConfig(family=family, architecture=architecture, text=text, notes=notes)


def _detected_hf(config: Mapping[str, object]) -> Family:
    """A config names the class that was saved; the bare model is the headless variant."""
    family, named = detect(config), config.get("architectures")
    for variant in HEADLESS:
        if variant.headless_of == family.name and named == list(variant.architectures):
            return variant
    return family


def _checked(model: Family | None, found: Family) -> Family:
    """The family asked for; with or without a head is the user's to say, another family is a mistake."""
    if model is None:
        return found
    if model.cs_name != found.cs_name:
        raise InvalidInputError(
            f"the checkpoint is of the family {found.cs_name}",
            field="--model",
            value=model.name,
            remedy="Leave it out, or give the right one.",
        )
    return model


def trainable(family: Family) -> Family:
    """The family itself, or the one that a headless variant is a variant of."""
    return family if family in FAMILIES else family_named(family.cs_name)


def _notes(unknown: tuple[str, ...], known: tuple[str, ...] = (), *, why: str = "") -> tuple[str, ...]:
    notes = []
    if unknown:
        notes.append(f"config keys dropped because nothing is known of them: {', '.join(unknown)}")
    if known:
        notes.append(f"config keys dropped because {why} them: {', '.join(known)}")
    return tuple(notes)
