"""How an attempt ended, and what becomes of its stage: done, tried again, given up, or handed back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from sqlalchemy import Update, bindparam, func, select, update
from sqlalchemy.orm import Session

from regraft.jobs import JOB_HELD, JobStatus, ReasonClass, StageStatus
from regraft.jobstore.advance import add_event, advance, announce, set_stage
from regraft.jobstore.retries import OUT_OF_MEMORY, Retry, half_the_batch, next_attempt
from regraft.models import Artifact, Attempt, Job, Stage
from regraft.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of an attempt."""

    status: Literal["succeeded", "cached", "failed", "cancelled", "released"]
    """`released`: stopped because the worker is leaving; the stage goes on elsewhere, and it counts as no failure."""
    result: dict[str, Any] | None = None
    reason: str | None = None
    reason_class: ReasonClass | None = None
    message: str | None = None
    detail: dict[str, Any] | None = None
    exit_status: int | None = None
    signal: int | None = None


def worker_lost(message: str) -> Outcome:
    """Of an attempt whose worker cannot tell any more."""
    return Outcome(status="failed", reason="worker_lost", reason_class=ReasonClass.INFRASTRUCTURE, message=message)


def settle(session: Session, job: Job, stage: Stage, outcome: Outcome, *, settings: Settings) -> None:
    """Write the end of the running attempt of `stage`, under the job's lock."""
    _close_attempt(session, stage, outcome)
    stage.lease_until = None
    stage.worker = None
    if outcome.status in ("succeeded", "cached"):
        stage.result = outcome.result
        stage.reason = stage.reason_class = stage.message = None
        stage.failures = 0
        set_stage(session, job, stage, StageStatus(outcome.status))
    elif outcome.status == "released" and job.status in JOB_HELD:
        stage.reason = stage.reason_class = stage.message = None  # a condition ends with its attempt
        set_stage(session, job, stage, StageStatus.PENDING, message=outcome.message)
    elif outcome.status == "released":
        _go_on_later(session, job, stage, outcome, Retry(delay=0.0))
    elif outcome.status == "failed" and (retry := _retry(session, job, stage, outcome, settings)) is not None:
        _go_on_later(session, job, stage, outcome, retry)
    else:
        _end(session, job, stage, outcome, StageStatus(outcome.status))
    advance(session, job)


def _end(session: Session, job: Job, stage: Stage, outcome: Outcome, status: StageStatus) -> None:
    stage.reason, stage.reason_class, stage.message = outcome.reason, outcome.reason_class, outcome.message
    if status is StageStatus.FAILED and stage.failures > 1:
        stage.message = f"{outcome.message} (given up after {stage.failures} attempts in a row that got nowhere)"
    set_stage(session, job, stage, status, message=stage.message)


def _retry(session: Session, job: Job, stage: Stage, outcome: Outcome, settings: Settings) -> Retry | None:
    made = select(Artifact.id).where(
        Artifact.job_id == job.id, Artifact.stage == stage.name, Artifact.epoch == stage.epoch
    )
    stage.failures = 1 if session.scalar(made.limit(1)) else stage.failures + 1
    return next_attempt(
        settings,
        reason=outcome.reason,
        reason_class=outcome.reason_class,
        failures=stage.failures,
        attempts=stage.epoch,
        halved=half_the_batch(stage.name, job.spec, stage.override) if outcome.reason == OUT_OF_MEMORY else None,
    )


def _go_on_later(session: Session, job: Job, stage: Stage, outcome: Outcome, retry: Retry) -> None:
    """Back into the queue, or to where the job's owner wants it by now."""
    if job.status == JobStatus.CANCELLING:
        cancelled = replace(outcome, reason="cancelled", reason_class=ReasonClass.USER_REQUEST)
        _end(session, job, stage, cancelled, StageStatus.CANCELLED)
        return
    if outcome.status == "failed":
        stage.reason, stage.reason_class, stage.message = outcome.reason, outcome.reason_class, outcome.message
    if retry.override is not None:
        stage.override = dict(retry.override)
    if job.status in JOB_HELD:
        set_stage(session, job, stage, StageStatus.PENDING, message=outcome.message)
        return
    why = outcome.message or outcome.reason or "the worker is leaving"
    changed = f", with {retry.override}" if retry.override else ""
    text = f"{stage.name} will be tried again in {retry.delay:.0f} s{changed}: {why}"
    data = {"delay_seconds": round(retry.delay, 1), "override": stage.override}
    add_event(session, job, text, stage=stage.name, level="warn", data=data)
    set_stage(session, job, stage, StageStatus.READY)
    announce(session, stage, delay=retry.delay)


def _close_attempt(session: Session, stage: Stage, outcome: Outcome) -> None:
    running = {"of_stage": stage.id, "of_epoch": stage.epoch}
    why = {name: getattr(outcome, name) for name in ("reason", "reason_class", "message", "detail")}
    how = {"status": outcome.status, "exit_status": outcome.exit_status, "signal": outcome.signal}
    session.connection().execute(_ended(), {**running, **why, **how})


@cache
def _ended() -> Update:
    running = (Attempt.stage_id == bindparam("of_stage"), Attempt.epoch == bindparam("of_epoch"))
    return update(Attempt).where(*running).values(finished_at=func.now())
