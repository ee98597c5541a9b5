"""One run: steps, scores, reports and checkpoints in their order, until it is done or told to stop."""

from __future__ import annotations

import math
import time
from collections import deque
from pathlib import Path
from typing import Any

from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.ports import Progress
from regraft.specs import TrainTask
from regraft.specs.monitoring import SCORES
from regraft.storage import local_path
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.checkpoint import Reported
from regraft_worker.trainer.folders import step_folder
from regraft_worker.trainer.inputs import Inputs
from regraft_worker.trainer.ledger import added
from regraft_worker.trainer.measures import Meter, Rates, throughput
from regraft_worker.trainer.saving import Saving
from regraft_worker.trainer.scoring import score
from regraft_worker.trainer.spikes import judged
from regraft_worker.trainer.state import DataPosition, TrainingState
from regraft_worker.trainer.step import Outcome, TrainStep
from regraft_worker.trainer.stopping import reason_to_stop, watched
from regraft_worker.trainer.targets import Target
from regraft_worker.trainer.trackers import Trackers, trackers_for
from regraft_worker.trainer.world import World

KEPT_REPORTS = 10_000
"""Reports a checkpoint carries: more than can be under way when a process is killed."""


class Run:
    """A model being trained; `state` says how far it is."""

    def __init__(
        self,
        task: TrainTask,
        inputs: Inputs,
        target: Target,
        progress: Progress,
        world: World,
        *,
        state: TrainingState,
        start: Path | None,
        part: bool,
        known_by: Path,
    ) -> None:
        self.spec = task.training
        self.folder = local_path(task.output_uri, field="output_uri")
        self.inputs, self.target, self.progress, self.world, self.state = inputs, target, progress, world, state
        self.part = part
        self.trackers = self._trackers(known_by)
        self.step = TrainStep(self.spec, inputs, target, start=start, judge=self._judge, progress=progress)
        if start is not None:
            progress.event(f"going on from step {state.step}", data={"step": state.step})
        reports = deque[Reported](checkpoint.read_reports(start) if start else (), maxlen=KEPT_REPORTS)
        self.reports = reports
        self.saving = Saving(self.folder, self.spec, inputs, progress, world, reports=reports, step=state.step)
        self.spiked = False
        self.fingerprint = 0
        self.rates, self.first = Rates(), state.step
        self.meter = Meter(
            inputs.description.architecture,
            length=inputs.train.parts[0].dataset.max_sequence_length,
            device=target.device,
            devices=world.size,
            precision=self.spec.precision,
            reads=inputs.train.reads,
            memory=target.memory,
        )

    def finish(self) -> TrainingState:
        """All steps that are left; the state after them."""
        try:
            self._score_base()
            self.rates = Rates()  # of the steps: neither loading nor the base model's scores are in them
            while self.state.step < self.inputs.max_steps and self.state.stopped_early is None:
                if self.world.agree(self.progress.should_stop()):
                    self._stop()
                self._go_on()
            self.state = self.saving.finished(self.state)
        finally:
            self.saving.close()
            self.trackers.close()
        return self.state

    def _go_on(self) -> None:
        """One step and what follows on it."""
        self.state = self.saving.heeded(self.state)
        metrics = self._advance(self.state.step + 1)
        scheduled = self._scheduled()
        if self._evaluation_due(scheduled=scheduled):
            metrics |= self._evaluate()
            self._stop_early_if_due()
        if metrics:
            self._report(metrics)
        if scheduled or self.state.stopped_early is not None:
            self._save(may_be_best=True)
        elif self.saving.is_time():
            self._save(may_be_best=False)

    def _advance(self, step: int) -> dict[str, float]:
        """One optimiser step; its metrics when they are to be reported."""
        made = self.step(step)
        self.saving.waited(made.waited)
        self._move_to(step, made)
        if self.spiked:
            self._undo(step)
        batch, length = self.spec.batch_size, self.inputs.train.parts[0].dataset.max_sequence_length
        self.meter.add(tokens=made.tokens, positions=batch * length, seconds=made.seconds)
        if step % self.spec.log_every_steps and step != self.inputs.max_steps:
            return {}
        numbers = {
            "train_loss": made.loss,
            "train_lr": made.rate,
            "train_grad_norm": made.gradient_norm,  # of a step that fp16 skipped it is infinite, and left out
            "epoch": self.inputs.train.epochs(self.state.dataloader.samples_streamed)[0],
        }
        if fp16 := self.step.scaler:
            numbers |= {"train_loss_scale": fp16.scale, "train_skipped_steps": float(fp16.skipped)}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        return finite | self.meter.take(steps_left=self.inputs.max_steps - step) | self.saving.stall()

    def _move_to(self, step: int, made: Outcome) -> None:
        batch = self.spec.batch_size
        self.fingerprint = added(self.fingerprint, self.inputs.train.reads.take((step - 1) * batch, step * batch))
        change: dict[str, Any] = {
            "step": step,
            "dataloader": DataPosition(samples_streamed=step * batch, seed=self.spec.seed),
            "tokens_seen": self.state.tokens_seen + made.tokens,
            "train_loss": made.loss if math.isfinite(made.loss) else self.state.train_loss,
            "scores": {},
        }
        self.state = self.state.model_copy(update=change)

    def _judge(self, step: int, loss: float, norm: float) -> bool:
        """Whether the weights may be changed: what is saved is always a state that still computes."""
        watch, finite = self.spec.loss_spike, math.isfinite(loss) and math.isfinite(norm)
        if not finite and (watch is None or watch.policy == "warn"):
            raise self._given_up(step, "loss_not_finite", loss, norm)
        if watch is None:
            return True
        verdict, spikes = judged(watch, self.state.spikes, loss, norm)
        self.state = self.state.model_copy(update={"spikes": spikes})
        if verdict == "calm":
            return True
        if verdict == "too_many":
            raise self._given_up(step, "loss_spike", loss, norm)
        said = {"step": step, "train_loss": repr(loss), "train_grad_norm": repr(norm), "policy": watch.policy}
        self.progress.event(f"the loss leaps to {loss:.6g} at step {step}: {watch.policy}", level="warn", data=said)
        self.spiked = watch.policy != "warn"
        return not self.spiked

    def _undo(self, step: int) -> None:
        """A spike had no effect on the weights; with `roll_back`, neither have the steps since the last checkpoint."""
        assert self.spec.loss_spike is not None, "spikes are watched for"
        self.spiked, back = False, step - 1
        if self.spec.loss_spike.policy == "roll_back":
            self.state, back = self.saving.newest_scheduled(self.state)
            self.step.restore(step_folder(self.folder, back) if back else None)
        before = tuple(stretch for stretch in self.state.without_effect if stretch[0] <= back)
        self.state = self.state.model_copy(update={"without_effect": (*before, (back + 1, step))})

    def _given_up(self, step: int, reason: str, loss: float, norm: float) -> InvalidDataError:
        self.saving.wait()
        self.state = self.saving.heeded(self.state)
        kept = step_folder(self.folder, self.saving.saved_step) if self.saving.saved_step else None
        what, value = ("loss", loss) if not math.isfinite(loss) or math.isfinite(norm) else ("gradient", norm)
        how = "is not finite" if reason == "loss_not_finite" else "has leapt too often in a row,"
        return InvalidDataError(
            f"the {what} {how} at step {step}" + (f"; the last good checkpoint is {kept.name}" if kept else ""),
            field="training",
            value=repr(value),
            remedy="Lower the learning rate, warm up longer, or use fp32.",
            reason=reason,
        )

    def _scheduled(self) -> bool:
        return self.state.step % self.spec.checkpoint.every_steps == 0 or self.state.step == self.inputs.max_steps

    def _evaluation_due(self, *, scheduled: bool) -> bool:
        """At its own steps and at the last one; with `keep_best`, every scheduled checkpoint needs its score too."""
        every, is_last = self.spec.evaluate.every_steps, self.state.step == self.inputs.max_steps and not self.part
        if every and (self.state.step % every == 0 or is_last):
            return True
        return scheduled and self.spec.checkpoint.keep_best is not None

    def _score_base(self) -> None:
        evaluate = self.spec.evaluate
        if self.state.step or evaluate.every_steps is None or not evaluate.at_start:
            return
        metrics = self._evaluate()
        self.state = self.state.model_copy(update={"baseline": self.state.scores})
        self._report(metrics)

    def _evaluate(self) -> dict[str, float]:
        """Scores of every set, and how the losses differ from the base model's."""
        # Not interrupted: a stop is heeded at the next step, so that a resumed run reports the same scores.
        began = time.monotonic()
        found: dict[str, float] = {}
        for name, one in self.inputs.sets.items():
            scores = score(
                self.step.model,
                one,
                batch_size=self.spec.batch_size,
                target=self.target,
                precision=self.spec.precision,
                world=self.world,
                tick=lambda _: self.progress.should_stop(),  # asking says that there is life in here
            )
            values = {f"{name}_{what}": getattr(scores, what) for what in SCORES}
            found |= {metric: value for metric, value in values.items() if value is not None}
        self.state = self.state.model_copy(update={"scores": found})
        base = self.state.baseline
        losses = {f"{name}_loss": f"{name}_loss_change" for name in self.inputs.sets}
        changes = {change: found[loss] - base[loss] for loss, change in losses.items() if loss in base}
        return found | changes | {"evaluation_seconds": time.monotonic() - began}

    def _stop_early_if_due(self) -> None:
        spec = self.spec.early_stopping
        if spec is None:
            return
        now = watched(spec, self.state.watched, self.state.scores[spec.metric])
        reason = reason_to_stop(spec, now) if self.state.step < self.inputs.max_steps else None
        self.state = self.state.model_copy(update={"watched": now, "stopped_early": reason})
        if reason is not None:
            self.progress.event(f"stopping early at step {self.state.step}: {reason}")

    def _report(self, metrics: dict[str, float]) -> None:
        step, tokens = self.state.step, self.state.tokens_seen
        self.reports.append({"step": step, "metrics": metrics, "tokens": tokens})
        self.progress.step(step, metrics, total=self.inputs.max_steps, tokens=tokens)
        batch = self.spec.batch_size
        self.rates.leave_out(metrics.get("evaluation_seconds", 0.0))
        if "train_loss" in metrics:
            metrics = metrics | throughput(self.rates.at((step - self.first) * batch), batch_size=batch)
        self.trackers.log(step, metrics, tokens)

    def _save(self, *, may_be_best: bool) -> None:
        self.state = self.saving.save(self.state, self.step.snapshot, self.fingerprint, may_be_best=may_be_best)
        self.fingerprint = 0

    def _stop(self) -> None:
        if self.state.step != self.saving.begun_step:
            self._save(may_be_best=False)
        self.saving.wait()
        self.state = self.saving.heeded(self.state)
        raise InterruptedStageError(f"stopped after step {self.state.step}; calling again goes on from there")

    def _trackers(self, known_by: Path) -> Trackers:
        if self.world.rank:
            return Trackers([], self._warn)
        first = self.state.step + 1 if self.state.step else 0
        options = self.spec.model_dump(mode="json", by_alias=True)
        found = trackers_for(
            self.folder, known_by=known_by, options=options, tensorboard=self.spec.tensorboard, first_step=first
        )
        return Trackers(found, self._warn)

    def _warn(self, message: str) -> None:
        self.progress.event(message, level="warn")
