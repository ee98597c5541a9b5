"""What makes two calls the same run: a run is continued by what would have made it, and by nothing else."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from regraft.discover import version_of
from regraft.errors import InvalidInputError
from regraft.specs import TrainTask
from regraft.storage import is_published
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.folders import step_folder
from regraft_worker.trainer.inputs import Inputs
from regraft_worker.trainer.schedule import schedule_of
from regraft_worker.trainer.state import DataPosition, TrainingState

_FREE = (
    *("max_steps", "evaluate", "checkpoint", "log_every_steps", "schedule", "learning_rate"),
    *("early_stopping", "tensorboard"),
    *("micro_batch_size", "activation_checkpointing", "compile"),
)
"""How long a run is, and when it is saved, scored and logged, may change; rates are compared as they come out. So may
how a step is divided and what is kept for its backward pass: that changes last bits only."""


def fresh_state(task: TrainTask, inputs: Inputs) -> TrainingState:
    """Of a run that has not made a step."""
    own, *mixed_in = inputs.datasets
    return TrainingState(
        training=task.training,
        target=task.target,
        max_steps=inputs.max_steps,
        dataloader=DataPosition(samples_streamed=0, seed=task.training.seed),
        dataset=own.address,
        dataset_windows=len(inputs.train.parts[0].dataset),
        dataset_files=own.files,
        mixture=tuple(mixed_in),
        ledger=inputs.ledger,
        base=inputs.base_address,
        versions={
            "regraft": version_of("regraft-worker"),
            "torch": version("torch"),
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        },
    )


def continued_state(task: TrainTask, inputs: Inputs, folder: Path) -> TrainingState:
    """Where the run stands, with today's options; refused when they would make it another run.

    Raises:
        InvalidInputError: an option that shapes the result differs, or the run is past `max_steps`.
    """
    found, fresh = checkpoint.read_state(folder), fresh_state(task, inputs)
    before, now = _identity(found), _identity(fresh)
    for name, value in now.items():
        if name in before and before[name] != value:
            raise InvalidInputError(
                f"the run in this folder was started with {before[name]!r}",
                field=name,
                value=value,
                remedy="Train into another folder, or with the options the run was started with.",
            )
    if found.step > inputs.max_steps:
        raise InvalidInputError(
            f"the run is at step {found.step} already", field="training.max_steps", value=inputs.max_steps
        )
    change = {name: getattr(fresh, name) for name in ("training", "target", "max_steps", "versions")}
    if not _best_counts(found, task, folder.parent):
        change["best"] = None
    if found.training.early_stopping != task.training.early_stopping:
        change |= {"watched": None, "stopped_early": None}
    return found.model_copy(update=change)


def _best_counts(found: TrainingState, task: TrainTask, run: Path) -> bool:
    """Whether what was the best one is still there, and the best by what is asked for today."""
    before, now = found.training.checkpoint, task.training.checkpoint
    if found.best is None or found.best.metric != now.keep_best or before.keep_best_mode != now.keep_best_mode:
        return False
    return is_published(step_folder(run, found.best.step))


def _identity(state: TrainingState) -> dict[str, object]:
    """What must not change within a run.

    Nor does it matter where a dataset lies. What has no address, or was not noted by an earlier version, is left out.
    """
    options = state.training.model_dump(
        mode="json", exclude={**dict.fromkeys(_FREE, True), "mixture": {"__all__": {"uri"}}}
    )
    rates = schedule_of(state.training, max_steps=state.max_steps).parts
    known = {
        "dataset": state.dataset,
        "dataset.files": state.dataset_files,
        "base_checkpoint": state.base,
        **{f"training.mixture[{number}].uri": part.address or part.files for number, part in enumerate(state.mixture)},
    }
    return {
        **{f"training.{name}": value for name, value in options.items()},
        "training.schedule": [part.model_dump(mode="json", by_alias=True) for part in rates],
        "dataset.windows": state.dataset_windows,
        **{name: value for name, value in known.items() if value is not None},
    }
