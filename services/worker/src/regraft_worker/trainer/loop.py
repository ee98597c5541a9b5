"""The training loop: from a dataset and a checkpoint to trained checkpoints.

What a run computes is a pure function of its task: the windows, the rate and the random numbers of a step follow from
(seed, step) alone, and what decides about later steps is kept in checkpoints. So a run that is killed anywhere and
called again ends with the same bits and reports the same numbers; steps since its last checkpoint are made, and
reported, again. Random generators are seeded anew at each step for that reason: dropout needs no saved state.

The trade-off: a checkpoint is written while training goes on, from a copy that takes the host memory of the weights and
moments once more. It sets torch's global seed, thread count and deterministic mode, which a notebook around it will
notice.
"""

from __future__ import annotations

from pathlib import Path

import torch

from regraft.ports import NullProgress, Progress
from regraft.specs import TrainResult, TrainTask
from regraft.storage import local_path, to_uri
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.folders import step_folder
from regraft_worker.trainer.handover import announce_handover
from regraft_worker.trainer.identity import continued_state, fresh_state
from regraft_worker.trainer.inputs import Inputs, open_inputs
from regraft_worker.trainer.retention import remove_drafts
from regraft_worker.trainer.run import Run
from regraft_worker.trainer.state import TrainingState
from regraft_worker.trainer.targets import target_for
from regraft_worker.trainer.world import Alone, World


def train(
    task: TrainTask,
    progress: Progress | None = None,
    *,
    world: World | None = None,
    part: bool = False,
    known_by: Path | None = None,
) -> TrainResult:
    """Train up to `max_steps`, going on from the newest whole checkpoint found in `output_uri`.

    Every process of a `world` calls this alike; only the main one reports and writes. Of a `part` of a longer training
    the last step is scored only where it would be anyway. `known_by` is the folder that Weights & Biases and MLflow
    know the run by, where that of `output_uri` does not stay.

    Raises:
        InvalidInputError: model, dataset and options do not go together, or another run's checkpoints are there.
        InvalidDataError: an input is not what it should be, or the loss is not finite (`loss_not_finite`).
        InterruptedStageError: asked to stop; a checkpoint of the last finished step is there.
        OSError, StorageFailedError: the last checkpoint cannot be written; those before it are there.
    """
    world = world or Alone()
    progress = progress if progress and world.rank == 0 else NullProgress()
    target = target_for(task.target)
    run = local_path(task.output_uri, field="output_uri")
    with open_inputs(task) as inputs:
        target.prepare()
        start = _agreed_start(run, progress, world)
        state = fresh_state(task, inputs) if start is None else continued_state(task, inputs, start)
        if start is not None:
            say_again(run, start, progress, total=inputs.max_steps)
            announce_handover(checkpoint.read_state(start), task.target, progress)
        if start is not None and (state.step == inputs.max_steps or state.stopped_early is not None):
            return result_of(run, state)
        _announce_mixture(inputs, progress, samples=inputs.max_steps * task.training.batch_size)
        made = Run(task, inputs, target, progress, world, state=state, start=start, part=part, known_by=known_by or run)
        return result_of(run, made.finish())


def _agreed_start(run: Path, progress: Progress, world: World) -> Path | None:
    """The checkpoint that every process goes on from: the one that the main process found whole."""
    found = -1
    if world.rank == 0:
        remove_drafts(run)
        latest = checkpoint.latest(run, progress=progress)
        found = -1 if latest is None else int(latest.name.rpartition("-")[2])
    # A sum over all processes, to which only the main one adds, is what it says.
    step = int(world.total(torch.tensor([found if world.rank == 0 else 0])).item())
    return None if step < 0 else step_folder(run, step)


def say_again(run: Path, start: Path, progress: Progress, *, total: int) -> None:
    """Repeat what a kill may have lost on its way to whoever listens: reports are made at least once."""
    ledger = checkpoint.read_state(start).ledger
    saved = [step_folder(run, segment.last) for segment in (ledger.segments if ledger else ())]
    for folder in saved:
        if not folder.is_dir():
            progress.artifact("pruned", to_uri(folder), {})
    for folder, summary in checkpoint.summaries(run):
        if folder <= start:
            progress.artifact("checkpoint", to_uri(folder), summary)
    for report in checkpoint.read_reports(start):
        progress.step(report["step"], report["metrics"], total=total, tokens=report["tokens"])


def _announce_mixture(inputs: Inputs, progress: Progress, *, samples: int) -> None:
    """What a mixture will make of its datasets: a small one may be read far more often than was meant."""
    train = inputs.train
    if len(train.parts) == 1:
        return
    found = [
        {"dataset": part.field, "windows": len(part.ranges), "share": float(share), "epochs": epochs}
        for part, share, epochs in zip(train.parts, train.shares, train.epochs(samples), strict=True)
    ]
    lines = "; ".join("{dataset}: {windows} windows, share {share:.4g}, {epochs:.4g} epochs".format(**x) for x in found)
    progress.event(f"windows are read from {len(found)} datasets: {lines}", data={"datasets": found})


def result_of(run: Path, state: TrainingState) -> TrainResult:
    assert state.train_loss is not None, "a finished run has made a step"
    best = state.best.step if state.best and state.training.checkpoint.keep_best else None
    return TrainResult(
        uri=to_uri(step_folder(run, state.step)),
        step=state.step,
        tokens_seen=state.tokens_seen,
        train_loss=state.train_loss,
        best_uri=None if best is None else to_uri(step_folder(run, best)),
        stopped_early=state.stopped_early,
    )
