"""How an attempt ended, and what becomes of its stage: done, tried again, given up, or handed back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func
from sqlalchemy.orm import Session

from regraft.jobs import JOB_HELD, RETRIED, ReasonClass, StageStatus
from regraft.jobstore.advance import add_event, advance, announce, set_stage
from regraft.models import Attempt, Job, Stage
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


def settle(session: Session, job: Job, stage: Stage, outcome: Outcome, *, settings: Settings) -> None:
    """Write the end of the running attempt of `stage`, under the job's lock."""
    _close_attempt(session, stage, outcome)
    stage.lease_until = None
    stage.worker = None
    if outcome.status in ("succeeded", "cached"):
        stage.result = outcome.result
        stage.reason = stage.reason_class = stage.message = None
        set_stage(session, job, stage, StageStatus(outcome.status))
    elif outcome.status == "released" and job.status in JOB_HELD:
        set_stage(session, job, stage, StageStatus.PENDING, message=outcome.message)
    elif outcome.status == "released":
        _again(session, job, stage, outcome, delay=0.0)
    elif outcome.status == "failed" and _may_retry(stage, outcome, settings):
        _again(session, job, stage, outcome, delay=settings.retry_seconds * 2 ** (stage.failures - 1))
    else:
        stage.reason, stage.reason_class, stage.message = outcome.reason, outcome.reason_class, outcome.message
        set_stage(session, job, stage, StageStatus(outcome.status), message=outcome.message)
    session.flush()
    advance(session, job)


def _may_retry(stage: Stage, outcome: Outcome, settings: Settings) -> bool:
    stage.failures += 1
    return outcome.reason_class in RETRIED and stage.failures < settings.max_attempts


def _again(session: Session, job: Job, stage: Stage, outcome: Outcome, *, delay: float) -> None:
    why = outcome.message or outcome.reason or "the worker is leaving"
    add_event(session, job, f"{stage.name} will be tried again: {why}", stage=stage.name, level="warn")
    set_stage(session, job, stage, StageStatus.READY)
    announce(session, stage, delay=delay)


def _close_attempt(session: Session, stage: Stage, outcome: Outcome) -> None:
    attempt = session.get_one(Attempt, (stage.id, stage.epoch))
    attempt.status = outcome.status
    attempt.finished_at = func.now()
    attempt.reason, attempt.reason_class, attempt.message = outcome.reason, outcome.reason_class, outcome.message
    attempt.detail, attempt.exit_status, attempt.signal = outcome.detail, outcome.exit_status, outcome.signal
