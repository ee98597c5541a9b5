"""The training loop: from a dataset and a checkpoint to trained checkpoints.

What a run computes is a pure function of its task: the windows, the rate and the random numbers of a step follow from
(seed, step) alone. So a run that is killed anywhere and called again ends with the same bits and reports the same
numbers; steps since its last checkpoint are made, and reported, again. Random generators are seeded anew at each step
for that reason: dropout needs no saved state.

The trade-off: training waits while a checkpoint is written. It sets torch's global seed,
thread count and deterministic mode, which a notebook around it will notice.
"""

from __future__ import annotations

import math
import platform
from collections import deque
from importlib.metadata import version
from pathlib import Path

import torch

from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.ports import NullProgress, Progress
from regraft.specs import TrainingSpec, TrainResult, TrainTask
from regraft.storage import is_published, local_path, to_uri
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.checkpoint import DataPosition, Reported, TrainingState
from regraft_worker.trainer.evaluate import scores
from regraft_worker.trainer.inputs import Inputs, open_inputs
from regraft_worker.trainer.schedule import schedule_of
from regraft_worker.trainer.snapshot import Snapshot
from regraft_worker.trainer.step import TrainStep
from regraft_worker.trainer.targets import Target, target_for
from regraft_worker.trainer.world import World

KEPT_REPORTS = 10_000
"""Reports a checkpoint carries: more than can be under way when a process is killed."""


def train(task: TrainTask, progress: Progress | None = None, *, world: World | None = None) -> TrainResult:
    """Train up to `max_steps`, going on from the newest whole checkpoint found in `output_uri`.

    Every process of a `world` calls this alike; only the main one reports and writes.

    Raises:
        InvalidInputError: model, dataset and options do not go together, or another run's checkpoints are there.
        InvalidDataError: an input is not what it should be, or the loss is not finite (`loss_not_finite`).
        InterruptedStageError: asked to stop; a checkpoint of the last finished step is there.
    """
    progress = progress if progress and (world is None or world.rank == 0) else NullProgress()
    target = target_for(task.target)
    run = local_path(task.output_uri, field="output_uri")
    with open_inputs(task) as inputs:
        target.prepare()
        start = checkpoint.latest(run, progress=progress)
        state = _fresh_state(task, inputs) if start is None else _continued_state(task, inputs, start)
        if start is not None:
            _say_again(run, start, progress, total=inputs.max_steps)
        if start is not None and state.step == inputs.max_steps:
            return _result(run, state)
        _announce_mixture(inputs, progress, samples=inputs.max_steps * task.training.batch_size)
        return _Run(task, inputs, target, progress, state=state, start=start).finish()


class _Run:
    """A model being trained; `state` says how far it is."""

    def __init__(
        self,
        task: TrainTask,
        inputs: Inputs,
        target: Target,
        progress: Progress,
        *,
        state: TrainingState,
        start: Path | None,
    ) -> None:
        self.spec = task.training
        self.folder = local_path(task.output_uri, field="output_uri")
        self.inputs, self.target, self.progress, self.state = inputs, target, progress, state
        self.step = TrainStep(self.spec, inputs, target, start=start, judge=self._check_finite, progress=progress)
        if start is not None:
            progress.event(f"going on from step {state.step}", data={"step": state.step})
        self.saved_step = state.step
        self.pace = _Pace()
        self.reports: deque[Reported] = deque(checkpoint.read_reports(start) if start else (), maxlen=KEPT_REPORTS)

    def finish(self) -> TrainResult:
        """All steps that are left."""
        while self.state.step < self.inputs.max_steps:
            if self.step.world.agree(self.progress.should_stop()):
                self._stop()
            metrics = self._advance(self.state.step + 1)
            due = self._checkpoint_due()
            if self._evaluation_due(checkpoint_due=due):
                metrics |= self._evaluate()
            if metrics:
                self._report(metrics)
            if due:
                self._save()
        return _result(self.folder, self.state)

    def _report(self, metrics: dict[str, float]) -> None:
        step, tokens = self.state.step, self.state.tokens_seen
        self.reports.append({"step": step, "metrics": metrics, "tokens": tokens})
        self.progress.step(step, metrics, total=self.inputs.max_steps, tokens=tokens)

    def _advance(self, step: int) -> dict[str, float]:
        """One optimiser step; its metrics when they are to be reported."""
        made = self.step(step)
        self._move_to(step, made.loss, made.tokens)
        self.pace.add(made.tokens, made.seconds)
        if step % self.spec.log_every_steps and step != self.inputs.max_steps:
            return {}
        fp16 = self.step.scaler
        scaling = {"train_loss_scale": fp16.scale, "train_skipped_steps": float(fp16.skipped)} if fp16 else {}
        norm = {} if made.skipped else {"train_grad_norm": made.gradient_norm}
        return {
            "train_loss": made.loss,
            "train_lr": made.rate,
            **norm,
            **scaling,
            "tokens_per_second": self.pace.take(),
            "epoch": self.inputs.train.epochs(self.state.dataloader.samples_streamed)[0],
        }

    def _check_finite(self, step: int, loss: float, norm: float) -> bool:
        # Before the weights are touched: what is saved is always a state that still computes.
        if math.isfinite(loss) and math.isfinite(norm):
            return True
        kept = checkpoint.step_folder(self.folder, self.saved_step) if self.saved_step else None
        raise InvalidDataError(
            f"the {'gradient' if math.isfinite(loss) else 'loss'} is not finite at step {step}"
            + (f"; the last good checkpoint is {kept.name}" if kept else ""),
            field="training",
            value=repr(norm if math.isfinite(loss) else loss),
            remedy="Lower the learning rate, warm up longer, or use fp32.",
            reason="loss_not_finite",
        )

    def _move_to(self, step: int, train_loss: float, tokens: int) -> None:
        change = {
            "step": step,
            "dataloader": DataPosition(samples_streamed=step * self.spec.batch_size, seed=self.spec.seed),
            "tokens_seen": self.state.tokens_seen + tokens,
            "train_loss": train_loss,
            "val_loss": None,
        }
        self.state = self.state.model_copy(update=change)

    def _checkpoint_due(self) -> bool:
        return self.state.step % self.spec.checkpoint.every_steps == 0 or self.state.step == self.inputs.max_steps

    def _evaluation_due(self, *, checkpoint_due: bool) -> bool:
        """At its own steps and at the last one; with `keep_best`, every checkpoint needs its score too."""
        every = self.spec.evaluate.every_steps
        if every and (self.state.step % every == 0 or self.state.step == self.inputs.max_steps):
            return True
        return checkpoint_due and self.spec.checkpoint.keep_best is not None

    def _evaluate(self) -> dict[str, float]:
        assert self.inputs.held_out is not None, "checked before compute"
        # Not interrupted: a stop is heeded at the next step, so that a resumed run reports the same scores.
        found = scores(
            self.step.model,
            self.inputs.held_out,
            batch_size=self.spec.batch_size,
            target=self.target,
            precision=self.spec.precision,
        )
        self.state = self.state.model_copy(update={"val_loss": found.loss})
        return {"val_loss": found.loss, "val_perplexity": found.perplexity, "val_accuracy": found.accuracy}

    def _save(self) -> None:
        self._note_best()
        snapshot = self.step.snapshot()
        self.saved_step = self.state.step
        if snapshot is not None:
            self._write(snapshot)
        self.step.world.barrier()

    def _write(self, snapshot: Snapshot) -> None:
        uri = to_uri(
            checkpoint.write(
                self.folder,
                self.state,
                snapshot,
                description=self.inputs.description,
                base=self.inputs.base,
                reports=self.reports,
            )
        )
        self.progress.artifact("checkpoint", uri, self.state.summary())
        for deleted in checkpoint.prune(self.folder, self.state):
            self.progress.artifact("pruned", to_uri(deleted), {})

    def _note_best(self) -> None:
        state = self.state
        if state.val_loss is not None and (state.best_val_loss is None or state.val_loss < state.best_val_loss):
            self.state = state.model_copy(update={"best_step": state.step, "best_val_loss": state.val_loss})

    def _stop(self) -> None:
        if self.state.step != self.saved_step:
            self._save()
        raise InterruptedStageError(f"stopped after step {self.state.step}; calling again goes on from there")


class _Pace:
    """Counted tokens per second of training, evaluation and saving left out."""

    def __init__(self) -> None:
        self.tokens, self.seconds = 0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds

    def take(self) -> float:
        """The mean since the last call."""
        rate = self.tokens / self.seconds
        self.tokens, self.seconds = 0, 0.0
        return rate


def _say_again(run: Path, start: Path, progress: Progress, *, total: int) -> None:
    """Repeat what a kill may have lost on its way to whoever listens: reports are made at least once."""
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


def _fresh_state(task: TrainTask, inputs: Inputs) -> TrainingState:
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
        base=inputs.base_address,
        versions={
            "regraft": version("regraft-worker"),
            "torch": version("torch"),
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        },
    )


def _continued_state(task: TrainTask, inputs: Inputs, folder: Path) -> TrainingState:
    """Where the run stands, with today's options; refused when they would make it another run.

    Raises:
        InvalidInputError: an option that shapes the result differs, or the run is past `max_steps`.
    """
    found, fresh = checkpoint.read_state(folder), _fresh_state(task, inputs)
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
    if found.best_step and not is_published(checkpoint.step_folder(folder.parent, found.best_step)):
        change |= {"best_step": None, "best_val_loss": None}  # deleted or damaged since
    return found.model_copy(update=change)


def _identity(state: TrainingState) -> dict[str, object]:
    """What must not change within a run. When it is saved, scored and logged, and how long it is, may.

    Nor does it matter where a dataset lies. What has no address, or was not noted by an earlier version, is left out.
    """
    free = {"max_steps", "evaluate", "checkpoint", "log_every_steps", "schedule", "learning_rate"}
    # How a step is divided and what is kept for its backward pass changes last bits only.
    free |= {"micro_batch_size", "activation_checkpointing", "compile"}
    options = state.training.model_dump(
        mode="json", exclude={**dict.fromkeys(free, True), "mixture": {"__all__": {"uri"}}}
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


def _result(run: Path, state: TrainingState) -> TrainResult:
    assert state.train_loss is not None, "a finished run has made a step"
    spec: TrainingSpec = state.training
    best = state.best_step if spec.checkpoint.keep_best else None
    return TrainResult(
        uri=to_uri(checkpoint.step_folder(run, state.step)),
        step=state.step,
        tokens_seen=state.tokens_seen,
        train_loss=state.train_loss,
        best_uri=None if best is None else to_uri(checkpoint.step_folder(run, best)),
    )
