"""A checkpoint of our trainer as the `.mdl` that a release's client goes on from.

It takes the optimiser with it: both moments and the powers of the betas, the step, where the schedule stands, and for
the map-style reader how many windows were read. The scale of a 16-bit loss is the hardware's own, and is not written.
"""

from __future__ import annotations

from pathlib import Path

from regraft.formats import Release
from regraft.specs import TrainingSpec
from regraft_worker.cerebras.rendering import numbers
from regraft_worker.trainer.checkpoint import read_state
from regraft_worker.zoo.mdl import Position, write_mdl

_MAP_READER_SINCE = (2, 0)
_TRAINER_SINCE = (2, 3)
_HDF5_05_SINCE = (2, 6)


def write_step_mdl(path: Path, step_folder: Path, *, training: TrainingSpec, release: str) -> None:
    """Write `path`, which appears when it is whole; `training` has `max_steps`.

    Raises:
        ConflictError: `path` is there already.
        InvalidDataError: the checkpoint has no state to go on from.
    """
    version = numbers(release)
    state = read_state(step_folder)
    write_mdl(
        path,
        step_folder,
        step=state.step,
        training=training,
        era=_era(version),
        position=Position(
            samples=state.dataloader.samples_streamed,
            seed=training.seed,
            map_style=version >= _MAP_READER_SINCE,
            shuffle=training.shuffle,
        ),
        hdf5=version >= _HDF5_05_SINCE,
    )


def _era(version: Release) -> str:
    return "1.8" if version < _MAP_READER_SINCE else "2.0" if version < _TRAINER_SINCE else "2.10"
