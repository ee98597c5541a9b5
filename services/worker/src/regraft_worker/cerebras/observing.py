"""What is known of a run while it goes: steps, losses and scores from the client's log, phase and place from csctl."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from regraft.cerebrassite import CerebrasSite
from regraft.ports import Progress
from regraft.specs import TrainingSpec
from regraft_worker.cerebras.csctl import Csctl, ListedJob, UnreachableError, place_in_queue
from regraft_worker.cerebras.log import ApplianceJob, Done, Happened, LogReader, Saved, Score, Step
from regraft_worker.cerebras.marks import EPOCH, JOB, STAGE
from regraft_worker.cerebras.states import COMPILING, RUNNING, UNREACHABLE, WAITING, Failure, reason_of
from regraft_worker.trainer.checkpoint import Reported
from regraft_worker.trainer.run import KEPT_REPORTS
from regraft_worker.trainer.schedule import schedule_of

_SCORES: Mapping[str, str] = {"loss": "val_loss", "lm_perplexity": "val_perplexity", "accuracy": "val_accuracy"}
_META: Mapping[str, Literal["compile", "execute"]] = {"compile_jobs": "compile", "execute_jobs": "execute"}


class Told:
    """The client's log as the run's reports; what it said last is kept for whoever judges its end."""

    def __init__(
        self,
        progress: Progress,
        training: TrainingSpec,
        *,
        length: int,
        reports: Iterable[Reported] = (),
        start: int = 0,
    ) -> None:
        assert training.max_steps is not None, "a run has an end"
        self._progress, self._training, self._total = progress, training, training.max_steps
        self._length, self._schedule = length, schedule_of(training, max_steps=training.max_steps)
        self._log = LogReader()
        self.reports: deque[Reported] = deque(reports, maxlen=KEPT_REPORTS)
        self.jobs: dict[str, str | None] = {}
        """Jobs of the cluster that the client named, and what each is for."""
        self.step = start
        self.begun = self.done = self.saved = False
        self.failure: Failure | None = None

    @property
    def last_line(self) -> str:
        """The newest line with anything in it."""
        return self._log.last_line

    def take(self, chunk: bytes, *, ended: bool = False) -> None:
        """Some more of its output; `ended`: no more will come."""
        for happened in (*self._log.feed(chunk), *(self._log.finish() if ended else ())):
            self._note(happened)

    def taken(self, told: ApplianceJob) -> None:
        """A job that the log or `run_meta.json` names: told once, whichever comes first."""
        if told.job in self.jobs:
            self.jobs[told.job] = self.jobs[told.job] or told.mode
            return
        self.jobs[told.job] = told.mode
        what = f"the cluster has taken {told.job}" + (f" to {told.mode}" if told.mode else "")
        self._progress.event(what, data={"wsjob": told.job, "workflow": told.workflow, "mode": told.mode})

    def tokens(self, step: int) -> int:
        """Positions that were read by then: which of them count is not told by the client."""
        return step * self._training.batch_size * self._length

    def scores_at(self, step: int) -> dict[str, float]:
        """What an evaluation found at this very step."""
        told = (report["metrics"] for report in self.reports if report["step"] == step)
        return {name: value for metrics in told for name, value in metrics.items() if name in _SCORES.values()}

    def loss_at(self, step: int) -> float | None:
        """The newest training loss that was told up to a step."""
        told = (report["metrics"] for report in reversed(self.reports) if report["step"] <= step)
        return next((metrics["train_loss"] for metrics in told if "train_loss" in metrics), None)

    def up_to(self, step: int) -> list[Reported]:
        """Reports that a checkpoint of this step keeps."""
        return [report for report in self.reports if report["step"] <= step]

    def _note(self, happened: Happened) -> None:
        match happened:
            case Step(kind="Train", step=step) if step is not None:
                self._trained(step, happened)
            case Step(kind="Eval"):
                self._report(happened.step or self.step, {"val_loss": happened.loss})
            case Score():
                self._report(self.step, {_SCORES[happened.name]: happened.value} if happened.name in _SCORES else {})
            case ApplianceJob():
                self._reached()
                self.taken(happened)
            case Saved():
                self.saved = True
            case Done():
                self.done = True
            case Failure():
                self.failure = happened

    def _trained(self, step: int, told: Step) -> None:
        self.step, self.begun = step, True
        self._reached()
        metrics = {"train_loss": told.loss, "train_lr": self._schedule.rate(step - 1)}
        if told.rate is not None:
            metrics["tokens_per_second"] = told.rate * self._length
        self._report(step, metrics)

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if finite:
            self.reports.append({"step": step, "metrics": finite, "tokens": self.tokens(step)})
            self._progress.step(step, finite, total=self._total, tokens=self.tokens(step))

    def _reached(self) -> None:
        """It reached the cluster after all: what it dies of later is something else."""
        if self.failure is not None and self.failure.reason == UNREACHABLE:
            self.failure = None


class Looking:
    """Phase and place in the queue, asked for at intervals; a cluster that does not answer is asked less and less."""

    def __init__(
        self, progress: Progress, csctl: Csctl, site: CerebrasSite, *, labels: Mapping[str, str], folder: Path
    ) -> None:
        self._progress, self._csctl, self._site = progress, csctl, site
        self._wanted = {name: labels[name] for name in (JOB, STAGE, EPOCH)}
        self._meta = folder / "cerebras_logs" / "run_meta.json"
        self._next = 0.0
        self._backoff = site.backoff_seconds

    def look(self, told: Told) -> None:
        """Ask, when it is time, and say what the stage is at."""
        if time.monotonic() < self._next:
            return
        try:
            jobs = self._csctl.jobs()
        except UnreachableError as error:
            self._progress.condition(UNREACHABLE, f"{error.message}; the client goes on")
            self._next = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, self._site.backoff_max_seconds)
            return
        self._next, self._backoff = time.monotonic() + self._site.poll_seconds, self._site.backoff_seconds
        for taken in meta_of(self._meta):
            told.taken(taken)
        self._say(jobs, told.jobs)

    def _say(self, jobs: list[ListedJob], modes: Mapping[str, str | None]) -> None:
        ours = [listed for listed in jobs if self._wanted.items() <= listed.labels.items() and not listed.ended]
        if not ours:
            return
        listed = min(ours, key=lambda job: job.age)  # the newest: compiling comes first
        mode = listed.kind or modes.get(listed.id)
        reason = reason_of(listed.phase, compiles=mode == "compile")
        if reason is not None:
            self._progress.condition(reason, _words(reason, listed, place_in_queue(jobs, listed.id)))


def _words(reason: str, listed: ListedJob, place: tuple[int, int] | None) -> str:
    if reason == COMPILING:
        return f"{listed.id} compiles"
    if reason == RUNNING:
        return f"{listed.id} runs"
    if reason == WAITING and place is not None:
        return f"{listed.id} waits for the cluster, {place[0]} of {place[1]} in its queue"
    return f"{listed.id} is {listed.phase.lower()}"


def meta_of(path: Path) -> list[ApplianceJob]:
    """The cluster's jobs by the client's `run_meta.json`; none while it is written. What is no entry is passed over."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    lists = ((content.get(key), mode) for key, mode in _META.items()) if isinstance(content, dict) else ()
    entries = ((entry, mode) for found, mode in lists if isinstance(found, list) for entry in found)
    return [_job_of(entry, mode) for entry, mode in entries if isinstance(entry, dict) and _name(entry, "id")]


def _job_of(entry: Mapping[str, object], mode: Literal["compile", "execute"]) -> ApplianceJob:
    return ApplianceJob(job=_name(entry, "id") or "", workflow=_name(entry, "workflow_id"), mode=mode)


def _name(entry: Mapping[str, object], key: str) -> str | None:
    found = entry.get(key)
    return found if isinstance(found, str) and found else None
