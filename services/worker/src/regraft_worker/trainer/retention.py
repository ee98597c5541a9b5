"""Which checkpoints of a run stay.

The newest `keep_last` stay, the best one with `keep_best`, every `keep_every`-th step for ever, and what a rollback
would need. Of those that stay, the optimiser's moments may go (`keep_optimizer_last`): the manifest is replaced by one
without them before they are deleted, so that the folder is a whole artifact at every moment.

Nothing is deleted before a newer checkpoint was published, which includes reading it back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from regraft.errors import InvalidDataError
from regraft.storage import DRAFTS, read_manifest, remove_leftovers, rewrite_manifest
from regraft_worker.trainer.folders import OPTIMIZER, step_folder, steps_in
from regraft_worker.trainer.state import TrainingState


def prune(run: Path, state: TrainingState) -> list[Path]:
    """Delete what is not to stay once the checkpoint of `state` is published; returns the folders deleted.

    Those of later steps are left alone: they are damaged ones that this run has gone back behind, and will replace.
    """
    past = sorted(step for step, _ in steps_in(run) if step <= state.step)
    kept = kept_steps(past, state)
    deleted = [step_folder(run, step) for step in past if step not in kept]
    for folder in deleted:
        _delete(folder)
    _drop_moments(run, sorted(kept), state)
    return deleted


def kept_steps(past: list[int], state: TrainingState) -> set[int]:
    """Of these steps, in order, those whose checkpoints stay."""
    spec = state.training.checkpoint
    kept = set(past[-spec.keep_last :])
    if spec.keep_best is not None:
        kept.add(state.best.step if state.best else state.step)
    if spec.keep_every is not None:
        kept |= {step for step in past if step % spec.keep_every == 0}
    return (kept | _for_rollback(past, state)) & set(past)


def remove_drafts(run: Path) -> None:
    """Checkpoints that processes which are gone have begun."""
    remove_leftovers(run / f"{DRAFTS}step")


def _for_rollback(past: list[int], state: TrainingState) -> set[int]:
    """The newest scheduled one: where a run stands at other steps depends on when it was stopped."""
    watch, every = state.training.loss_spike, state.training.checkpoint.every_steps
    if watch is None or watch.policy != "roll_back":
        return set()
    return set([step for step in past if step % every == 0][-1:])


def _drop_moments(run: Path, kept: Iterable[int], state: TrainingState) -> None:
    newest = state.training.checkpoint.keep_optimizer_last
    if newest is None:
        return
    steps = sorted(kept)
    spared = set(steps[-newest:]) | _for_rollback(steps, state)
    for step in steps:
        folder = step_folder(run, step)
        if step not in spared and (folder / OPTIMIZER).is_file():
            _without_moments(folder)


def _without_moments(folder: Path) -> None:
    try:
        manifest = read_manifest(folder)
    except InvalidDataError:
        return  # damaged: nobody goes on from it anyway
    if manifest is None:
        return
    files = tuple(entry for entry in manifest.files if entry.path != OPTIMIZER)
    rewrite_manifest(folder, manifest.model_copy(update={"files": files}))
    (folder / OPTIMIZER).unlink()


def _delete(folder: Path) -> None:
    # Without its manifest it is no checkpoint any more, however far the rest gets.
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
