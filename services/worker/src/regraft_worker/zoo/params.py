"""A Model Zoo params file as what it asks of a run: model, training, inputs, and when to save, score and stop.

Flat files (releases 1.8 to 2.2) and the trainer form (2.3 and later) come to the same. What is given on the command
line wins over the file. Nothing is dropped silently: keys without effect are named in `notes`, all others are used,
refused by name, or unknown and refused with the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from regraft.errors import InvalidInputError
from regraft_worker.zoo.control import Control, control_of
from regraft_worker.zoo.keys import (
    FLAT_SECTIONS,
    OPTIMIZER_KEYS,
    READER_KEYS,
    RUNCONFIG_NO_EFFECT,
    RUNCONFIG_REFUSED,
    RUNCONFIG_USED,
    Era,
    Section,
    section_of,
    sort_keys,
    unknown_key,
    whole,
)
from regraft_worker.zoo.model import ZooModel, read_model
from regraft_worker.zoo.optimizer import optimizer_of, schedule_of
from regraft_worker.zoo.reader import Reader, reader_of
from regraft_worker.zoo.trainer_form import flattened

Mode = Literal["train", "eval", "train_and_eval", "eval_all"]


@dataclass(frozen=True, kw_only=True)
class Params:
    """What the file and the command line ask for."""

    text: str
    """The file as it was."""
    era: Era
    model: ZooModel
    training: dict[str, object]
    """Fields of a training specification; without the data and the steps."""
    train: Reader | None
    scored: tuple[Reader, ...]
    control: Control
    hdf5: bool
    """Whether checkpoints are HDF5 of format 0.5, which no release before 2.6 reads; else torch files."""
    notes: list[str]


def read_params(
    path: Path, *, mode: Mode, device: str, given: Mapping[str, object], checkpoint_format: str | None = None
) -> Params:
    """Read a params file for a run; `given` are keys of `runconfig` from the command line.

    `checkpoint_format` is `torch` or `hdf5`, null for what the file's releases write.

    Raises:
        InvalidInputError: the file cannot be read, or asks for what is unknown or not offered.
        InvalidDataError: the model is none that is supported.
    """
    text, content = _content(path)
    flat, quiet = (flattened(content["trainer"], mode=mode)) if "trainer" in content else (content, [])
    sort_keys(flat, "the params file", used=FLAT_SECTIONS)
    _check_unread(flat)
    era = _era(content)
    runconfig = {**section_of(flat, "runconfig"), **given}
    quiet += sort_keys(
        runconfig, "runconfig", used=RUNCONFIG_USED, no_effect=RUNCONFIG_NO_EFFECT, refused=RUNCONFIG_REFUSED
    )
    model = read_model(section_of(flat, "model"), era=era, device=device)
    control = control_of(runconfig, mode=mode)
    notes = [*model.notes]
    train = reader_of(section_of(flat, "train_input"), "train_input") if mode.startswith("train") else None
    scored = () if mode == "train" else tuple(reader_of(part, where) for part, where in _eval_inputs(flat))
    training = {**model.training, "log_every_steps": control.log_steps}
    if train is not None:
        training |= _trained(section_of(flat, "optimizer"), train, control, quiet)
        notes += train.notes
    quiet += [*model.no_effect, *(key for reader in (train, *scored) if reader for key in reader.no_effect)]
    if quiet:
        notes.insert(0, f"these keys have no effect on {device.upper()}: {', '.join(sorted(quiet))}")
    return Params(
        text=text,
        era=era,
        model=model,
        training=training,
        train=train,
        scored=scored,
        control=control,
        hdf5=_is_hdf5(checkpoint_format, era, section_of(flat, "model")),
        notes=notes,
    )


def _is_hdf5(asked: str | None, era: Era, model: Section) -> bool:
    """The trainer form does not say its release; only that of 2.3 has models without a name."""
    if asked not in (None, "torch", "hdf5"):
        raise InvalidInputError(
            "no such format",
            field="--checkpoint_format",
            value=asked,
            remedy="Use torch (all releases) or hdf5 (2.6+).",
        )
    if asked == "hdf5" and era != "2.10":
        raise InvalidInputError(
            "is read by no release that takes a flat params file",
            field="--checkpoint_format",
            value=asked,
            remedy="Leave the flag out, or use torch.",
        )
    return era == "2.10" and (asked == "hdf5" if asked else "name" in model)


def _content(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise InvalidInputError(f"cannot be read ({error.strerror})", field="--params", value=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError("is no valid YAML", field="--params", value=str(path)) from error
    if not isinstance(content, dict):
        raise InvalidInputError("has no sections", field="--params", value=str(path))
    if "trainer" in content and len(content) > 1:
        others = [key for key in content if key != "trainer"]
        raise unknown_key(others[0], "the params file", ("trainer",))
    return text, content


def _check_unread(flat: Section) -> None:
    """Keys of the sections that not every mode reads: what is misspelt is said before the mode that needs it."""
    known = {"train_input": READER_KEYS, "eval_input": READER_KEYS, "optimizer": OPTIMIZER_KEYS}
    for name, keys in known.items():
        found = flat.get(name)
        for part in found if isinstance(found, list) else [found]:
            if isinstance(part, dict):
                sort_keys(part, name, used=keys)


def _era(content: Section) -> Era:
    if "trainer" in content:
        return "2.10"
    optimizer, runconfig = section_of(content, "optimizer"), section_of(content, "runconfig")
    rates = optimizer.get("learning_rate")
    parts = [part for part in (rates if isinstance(rates, list) else [rates]) if isinstance(part, dict)]
    newer = (
        "weight_decay" in optimizer,
        any("total_iters" in part for part in parts),
        "fp16_type" in section_of(content, "model"),
        bool({"load_checkpoint_states", "disable_strict_checkpoint_loading", "max_checkpoints"} & runconfig.keys()),
    )
    return "2.0" if any(newer) else "1.8"


def _eval_inputs(flat: Section) -> list[tuple[dict[str, object], str]]:
    found = flat.get("eval_input")
    if isinstance(found, list):
        wrong = [part for part in found if not isinstance(part, dict)]
        if wrong or not found:
            raise InvalidInputError("must be input sections", field="eval_input", value=wrong)
        return [(part, f"eval_input[{place}]") for place, part in enumerate(found)]
    if found is None:
        raise InvalidInputError("must be given in this mode", field="eval_input", remedy="Say what to score.")
    return [(section_of(flat, "eval_input"), "eval_input")]


def _trained(section: Section, train: Reader, control: Control, quiet: list[str]) -> dict[str, object]:
    optimizer, without_effect = optimizer_of(section)
    quiet += without_effect
    accumulated = whole(section, "grad_accum_steps", "optimizer") or 1
    return {
        "optimizer": optimizer,
        "schedule": schedule_of(section),
        "batch_size": train.batch_size * accumulated,
        "shuffle": train.shuffle,
        "seed": train.seed if train.seed is not None and train.shuffle else control.seed,
    }
