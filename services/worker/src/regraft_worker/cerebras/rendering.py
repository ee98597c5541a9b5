"""The complete params file of a run on a Cerebras cluster: the job, the converted model, the places, the cluster.

Flat sections for releases 1.8 to 2.2, the trainer form for 2.3 to 2.10. Nothing is left to what the client would find
out by itself: where the cluster is, what it mounts, and which checkpoint is started from are always said.

From release 2.0 on the map-style reader is used: its order depends on the seed only, is ours, and goes on where a
checkpoint was made. The reader of 1.8 and 1.9 shuffles as it likes and starts over in a run that goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.cerebras_limits import check_cluster
from regraft.errors import InvalidInputError
from regraft.formats import Release, release_of
from regraft.specs import TrainingSpec
from regraft_worker.cerebras.options import Options, backend_keys, runconfig_keys
from regraft_worker.conversion.formats import format_named
from regraft_worker.conversion.params_file import ParamsFile, training_params

Section = dict[str, Any]
_MAP_READER_SINCE = (2, 0)
_TRAINER_SINCE = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders and files, at paths that the cluster knows, too."""

    data_dir: str
    """Holds `train` and `eval`."""
    model_dir: str
    """Of this run alone: logs and checkpoints."""
    max_sequence_length: int
    """Of the windows in `data_dir`."""
    checkpoint: str = ""
    """The `.mdl` to start from; empty: new weights."""
    resume: bool = False
    """Take optimiser, schedule, step and position in the data from it; false: the weights only, as step 0."""


@dataclass
class Rendered(ParamsFile):
    """A params file, and what the client must be told beside it."""

    flags: list[str] = field(default_factory=list)
    """Words for the command line, of settings that the release has no key for."""


def numbers(release: str) -> Release:
    """`2.10` as (2, 10), which is not 2.1.

    Raises:
        InvalidInputError: no such release is known.
    """
    format_named(f"cs-{release}", field="target.release")
    found = release_of(f"cs-{release}")
    assert found is not None, "the name of a release"
    return found


def is_flat(release: str) -> bool:
    """True for the sections of `run.py`, false for the trainer form."""
    return numbers(release) < _TRAINER_SINCE


def render(
    training: TrainingSpec, section: Mapping[str, object], *, release: str, places: Places, options: Options
) -> Rendered:
    """The params file; `section` is a converted `model:` section of any release.

    Raises:
        InvalidInputError: the job asks for something that the release cannot be told, or a place cannot be mounted.
    """
    target, _ = format_named(f"cs-{release}", field="target.release")
    version = numbers(release)
    _check(training, options, places, version)
    made = training_params(
        training,
        {**section, **_initializers(section)},
        target=target,
        data_dir=places.data_dir,
        max_sequence_length=places.max_sequence_length,
        checkpoint=places.checkpoint,
    )
    found = Rendered(made.content, made.notes + _notes(training, places, version))
    complete = _flat if version < _TRAINER_SINCE else _trainer
    complete(found, options, places, version)
    return found


def _flat(found: Rendered, options: Options, places: Places, release: Release) -> None:
    content: Section = found.content
    _name_reader(content["train_input"], content["eval_input"], release)
    if options.fp16_type is not None:
        content["model"]["fp16_type"] = options.fp16_type
    runconfig = content["runconfig"]
    if places.resume:
        for key in ("is_pretrained_checkpoint", "load_checkpoint_states"):
            runconfig.pop(key, None)
    keys, found.flags = runconfig_keys(options, release)
    runconfig |= {"model_dir": places.model_dir, "autoload_last_checkpoint": False, **keys}


def _trainer(found: Rendered, options: Options, places: Places, release: Release) -> None:
    trainer: Section = found.content["trainer"]  # type: ignore[assignment]
    init, fit = trainer["init"], trainer["fit"]
    _name_reader(fit["train_dataloader"], fit["val_dataloader"], release)
    for key in ("fp16_type", "precision_opt_level"):
        if getattr(options, key) is not None:
            init["precision"][key] = getattr(options, key)
    init["checkpoint"]["autoload_last_checkpoint"] = False
    if places.checkpoint and not places.resume:
        init["callbacks"].append({"LoadCheckpointStates": {"load_checkpoint_states": "model"}})
    first = {"seed": init.pop("seed"), "model_dir": places.model_dir, "backend": backend_keys(options)}
    trainer["init"] = first | init


def _name_reader(train: Section, evaluation: Section, release: Release) -> None:
    if release >= _MAP_READER_SINCE:
        train["data_processor"] = evaluation["data_processor"] = "GptHDF5MapDataProcessor"


def _initializers(section: Mapping[str, object]) -> Section:
    """How weights would be drawn, by the rules of the published GPT-J file; a checkpoint replaces them all."""
    hidden, layers, vocabulary = (section.get(key) for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
    if not (isinstance(hidden, int) and isinstance(layers, int) and isinstance(vocabulary, int)):
        return {}  # refused later, by name
    stds = {
        "embedding_initializer": 1 / math.sqrt(vocabulary),
        "initializer": 1 / math.sqrt(hidden),
        "output_layer_initializer": 2 / (layers * math.sqrt(hidden)),
    }
    return {
        key: {"name": "truncated_normal", "mean": 0.0, "std": std} for key, std in stds.items() if key not in section
    }


def _check(training: TrainingSpec, options: Options, places: Places, release: Release) -> None:
    check_cluster(
        training,
        release=release,
        num_csx=options.num_csx,
        fp16_type=options.fp16_type,
        precision_opt_level=options.precision_opt_level,
    )
    if not any(Path(places.data_dir).is_relative_to(folder) for folder in options.mount_dirs):
        raise InvalidInputError(
            "the data is in none of the folders that the cluster mounts",
            field="REGRAFT_CEREBRAS_MOUNT_DIRS",
            value=places.data_dir,
            remedy="Add the folder of the storage, which the cluster must see at the same path.",
        )


def _notes(training: TrainingSpec, places: Places, release: Release) -> list[str]:
    found = []
    if release < (2, 0) and training.precision != "fp32":
        found.append(f"training.precision {training.precision}: this release has one kind of mixed precision, its own")
    if release < _MAP_READER_SINCE and training.shuffle:
        found.append("the order of the windows is the cluster's own in this release")
    if release < _MAP_READER_SINCE and places.resume:
        found.append("the position in the data is not carried in this release: the epoch is read from its start")
    return found
