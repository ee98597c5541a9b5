"""A folder for one run of the client: the checkpoint it starts from, its params file, and the words to start it with.

Each run has a folder of its own, because the client loads whatever newer checkpoint it finds in one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.cerebrassite import CerebrasSite
from regraft.errors import InvalidInputError
from regraft.ports import Progress
from regraft.specs import AttemptRef, CerebrasTargetSpec, TrainingSpec
from regraft_worker.cerebras.carrying import write_step_mdl
from regraft_worker.cerebras.command import Mode, client_words
from regraft_worker.cerebras.options import options_of
from regraft_worker.cerebras.quiet import Quiet, stop_if_asked
from regraft_worker.cerebras.rendering import Places, is_flat, numbers, render
from regraft_worker.conversion.cs_config import model_section
from regraft_worker.conversion.formats import format_named
from regraft_worker.conversion.transfer import transfer
from regraft_worker.trainer.checkpoint import read_state
from regraft_worker.trainer.weights import Description

PARAMS, STARTED, START = "params.yaml", "started.json", "start"
_MAP_READER_SINCE = (2, 0)
_UNLIMITED = 10**15


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What all runs of a stage have in common."""

    training: TrainingSpec
    """With `max_steps`."""
    target: CerebrasTargetSpec
    description: Description
    length: int
    data_dir: Path
    site: CerebrasSite
    attempt: AttemptRef
    labels: Mapping[str, str]
    priority: str


def new_folder(asked: Asked, run: Path) -> Path:
    """Of one run of the client, made; ordered by name as by time."""
    root = runs_folder(asked, run)
    root.mkdir(parents=True, exist_ok=True)
    number = len([path for path in root.iterdir() if path.name.startswith(f"{asked.attempt.epoch:08d}-")])
    folder = root / f"{asked.attempt.epoch:08d}-{number}"
    folder.mkdir()
    return folder


def runs_folder(asked: Asked, run: Path) -> Path:
    """Where the folders of a stage's runs are; the cluster must see them.

    Raises:
        InvalidInputError: the cluster does not mount it.
    """
    site = asked.site
    root = Path(site.model_dir) / asked.attempt.job if site.model_dir else run / "cerebras"
    if not any(root.is_relative_to(folder) for folder in site.mounts):
        raise InvalidInputError(
            "the client's folders are in none that the cluster mounts",
            field="REGRAFT_CEREBRAS_MODEL_DIR",
            value=str(root),
            remedy="Set it to a folder below one of REGRAFT_CEREBRAS_MOUNT_DIRS.",
        )
    return root


def lay_out(asked: Asked, folder: Path, *, base: Path, start: Path | None, progress: Progress) -> list[str]:
    """Write what a run of the client starts from; returns the words to start it with.

    `start` is the run's checkpoint to go on from; None: the weights of `base`, as step 0.

    Raises:
        InvalidInputError: the release cannot be told what the job asks for.
    """
    checkpoint = _from_base(asked, folder, base, progress) if start is None else _from_step(asked, folder, start)
    words = write_params(asked, folder, checkpoint=checkpoint, resume=start is not None, progress=progress)
    started = {"step": 0 if start is None else read_state(start).step, "at": time.time()}
    (folder / STARTED).write_text(json.dumps(started) + "\n", encoding="utf-8")
    return words


def write_params(
    asked: Asked,
    folder: Path,
    *,
    checkpoint: Path | None,
    resume: bool,
    progress: Progress,
    only: str = "none",
) -> list[str]:
    """The params file in `folder`; returns the words. `only`: `validate` or `compile` and no more.

    Raises:
        InvalidInputError: as `lay_out`.
    """
    release = asked.site.release
    target, _ = format_named(f"cs-{release}", field="target.release")
    about = asked.description
    architecture = about.family.read_config(about.config)
    section = model_section(
        about.config, family=about.family, architecture=architecture, target=target, field="target.release"
    )
    places = Places(
        data_dir=str(asked.data_dir),
        model_dir=str(folder),
        max_sequence_length=asked.length,
        checkpoint="" if checkpoint is None else str(checkpoint),
        resume=resume,
    )
    options = options_of(asked.target, asked.site, labels=asked.labels, priority=asked.priority)
    found = render(asked.training, section, release=release, places=places, options=options)
    for note in found.notes:
        progress.event(f"params file: {note}", level="warn")
    (folder / PARAMS).write_text(found.text(), encoding="utf-8")
    mode: Mode = "train_and_eval" if is_flat(release) and asked.training.evaluate.every_steps else "train"
    return client_words(
        asked.site.client_command,
        release=release,
        mode=mode,
        params=str(folder / PARAMS),
        model_dir=str(folder),
        only={"validate": "validate_only", "compile": "compile_only"}.get(only),  # type: ignore[arg-type]
        flags=found.flags,
    )


def carries_position(release: str, training: TrainingSpec) -> bool:
    """Whether the client's reader goes on where a checkpoint was made."""
    return numbers(release) >= _MAP_READER_SINCE or not training.shuffle


def _from_base(asked: Asked, folder: Path, base: Path, progress: Progress) -> Path:
    """The weights alone, proven to be the same."""
    made = folder / START
    made.mkdir()
    done = transfer(
        base,
        config=base / "config.json",
        model="",
        src_fmt="hf",
        tgt_fmt=f"cs-{asked.site.release}",
        output_dir=made,
        drop_unmatched_keys=False,
        hf_shard_size=_UNLIMITED,
        export_safetensors=False,
        export_h5=False,
        progress=Quiet(lambda: stop_if_asked(progress)),
        transformers_share=0.0,  # the stage `convert` asked it of this base
    )
    return done.checkpoint


def _from_step(asked: Asked, folder: Path, start: Path) -> Path:
    """Weights, moments, step, schedule and position in the data."""
    made = folder / START
    made.mkdir()
    path = made / f"{start.name}.mdl"
    write_step_mdl(path, start, training=asked.training, release=asked.site.release)
    return path
