"""Holding a stage: claim it, renew the lease, report what it does, hand it back.

A claim raises the stage's epoch. Every later write names that epoch and is refused (`FencedError`) once somebody else
has claimed or the sweeper has taken the stage away: a worker that was cut off can never write over its successor. It
names the worker too: a standby that is promoted may have missed the last claim, and hands its epoch out a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine, Interval, Select, TextClause, Update, bindparam, func, insert, select, text, update
from sqlalchemy.orm import Session, aliased, lazyload

from regraft.errors import FencedError
from regraft.jobs import JOB_STARTS_STAGES, STAGE_DONE, JobStatus, ReasonClass, StageName, StageStatus
from regraft.jobstore.advance import add_event, advance, lock_job, lock_job_to_claim
from regraft.jobstore.limits import not_draining
from regraft.jobstore.outcomes import Outcome, settle
from regraft.jobstore.reports import Report, write_artifact, write_progress
from regraft.models import DEFAULT_PROJECT, Attempt, Job, Stage
from regraft.settings import Settings
from regraft.specs import JobSpec

# The state and the limit are spelled out: a plan that the server keeps for any parameter could not know otherwise that
# the partial index applies, and that few rows are wanted of it.
_WAITING = """(
    SELECT id, priority, available_at FROM stages
    WHERE status = 'ready' AND queue = :queue_{number} AND available_at <= now()
    ORDER BY priority, available_at LIMIT {limit:d}
)"""

__all__ = ["Claim", "Leases", "Outcome", "Report", "Wanted"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A stage that is ours until the lease runs out."""

    stage_id: str
    job_id: str
    stage: StageName
    epoch: int
    worker: str
    spec: JobSpec
    results: Mapping[StageName, Mapping[str, Any]]
    """What the finished stages of the job handed back."""
    override: Mapping[str, Any] = field(default_factory=dict)
    """What this attempt does otherwise than the spec says."""
    project_id: str = DEFAULT_PROJECT


class Wanted(StrEnum):
    """What the job's owner wants of a running stage."""

    GO_ON = "go_on"
    CANCEL = "cancel"
    PAUSE = "pause"
    """Save and stop; the stage goes on when the job is resumed."""
    DROP = "drop"
    """Another stage of the job has failed; this one's work is of no use."""


class Leases:
    """What a worker needs of the store."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        """For what is one statement: a transaction by itself, in one round trip instead of three."""
        self._settings = settings

    def claim(self, stage_id: str, *, worker: str) -> Claim | None:
        """Take a ready stage, or None: it is not ready any more (a doubled, late or stale message)."""
        with Session(self._engine) as session, session.begin():
            job = lock_job_to_claim(session, stage_id)
            if job is None or job.status not in JOB_STARTS_STAGES:
                return None
            stage = session.scalar(_take(), {"of_stage": stage_id, "by_worker": worker, "lease": self._lease()})
            if stage is None:
                return None
            text = f"{stage.name} is running on {worker} (attempt {stage.epoch})"
            data = {"status": stage.status, "attempt": stage.epoch, "worker": worker}
            add_event(session, job, text, stage=stage.name, type_="state", data=data)
            advance(session, job)
            try:
                return _claim(job, stage, worker=worker)
            except ValidationError as error:
                # Written by another version. Ended at once: a stage that no worker can read must not go round.
                settle(session, job, stage, _unreadable(error), settings=self._settings)
                return None

    def ready(self, queues: Sequence[str], *, limit: int = 8) -> list[str]:
        """Stages that wait in these queues now, in the order in which they should be taken."""
        if not queues:
            return []
        with self._at_once.connect() as connection:
            names = {f"queue_{number}": queue for number, queue in enumerate(queues)}
            return list(connection.scalars(_waiting(len(queues), limit), names))

    def renew(self, claim: Claim) -> None:
        """Extend the lease.

        Raises:
            FencedError: the stage is not ours any more.
        """
        ours = {"of_id": claim.stage_id, "of_epoch": claim.epoch, "of_worker": claim.worker}
        with self._at_once.connect() as connection:
            if connection.execute(_renew(), {**ours, "lease": self._lease()}).first() is None:
                raise FencedError("the lease was lost", value=claim.stage_id)

    def wanted(self, claim: Claim) -> Wanted:
        """Whether the stage should go on."""
        with self._at_once.connect() as connection:
            found = connection.execute(_wanted(), {"of_job": claim.job_id}).first()
        status, is_failed = found or (None, False)
        if status == JobStatus.CANCELLING:
            return Wanted.CANCEL
        if status == JobStatus.PAUSING:
            return Wanted.PAUSE
        return Wanted.DROP if is_failed else Wanted.GO_ON

    def report(self, claim: Claim, report: Report) -> None:
        """Write progress, metrics, events and artifacts.

        Raises:
            FencedError: the stage is not ours any more; nothing was written.
        """
        if report.condition is None and not report.events and not report.artifacts:
            with self._at_once.connect() as connection:
                write_progress(connection, claim, report)
            return
        with Session(self._engine) as session, session.begin():
            job, stage = _held(session, claim)
            if report.progress is not None or report.metrics:
                write_progress(session.connection(), claim, report)
            if report.condition is not None:
                _write_condition(session, job, stage, report.condition)
            for artifact in report.artifacts:
                write_artifact(session, claim, artifact)
            for event in report.events:
                add_event(session, job, event["message"], stage=claim.stage, level=event["level"], data=event["data"])

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """End the attempt and let the job go on from there.

        Raises:
            FencedError: the stage is not ours any more; nothing was written.
        """
        with Session(self._engine) as session, session.begin():
            job, stage = _held(session, claim)
            settle(session, job, stage, outcome, settings=self._settings)

    def _lease(self) -> timedelta:
        return timedelta(seconds=self._settings.lease_seconds)


@cache
def _waiting(queues: int, limit: int) -> TextClause:
    """Each queue by its own index range, so that a long queue costs no more than a short one."""
    parts = " UNION ALL ".join(_WAITING.format(number=number, limit=limit) for number in range(queues))
    order = f"ORDER BY priority, available_at, id LIMIT {limit:d}"
    return text(f"SELECT id FROM ({parts}) AS waiting {order}")  # noqa: S608  # made of constants and numbers


@cache
def _take() -> Select[Stage]:
    """The guarded update, and the attempt that it begins: of any number of workers that try, one wins."""
    waits = (Stage.id == bindparam("of_stage"), Stage.status == StageStatus.READY, Stage.available_at <= func.now())
    taken = (
        update(Stage)
        .where(*waits, not_draining())
        .values(
            status=StageStatus.RUNNING,
            epoch=Stage.epoch + 1,
            worker=bindparam("by_worker"),
            lease_until=func.now() + bindparam("lease", type_=Interval),
            started_at=func.coalesce(Stage.started_at, func.now()),
            finished_at=None,
        )
        .returning(*Stage.__table__.columns)
        .cte("taken")
    )
    begun = select(taken.c.id, taken.c.project_id, taken.c.epoch, taken.c.worker, taken.c.status)
    attempt = insert(Attempt).from_select(["stage_id", "project_id", "epoch", "worker", "status"], begun)
    ours = aliased(Stage, taken)
    statement = select(ours).add_cte(attempt.cte("attempt")).options(lazyload(ours.attempts))
    return statement.execution_options(populate_existing=True)


@cache
def _renew() -> Update:
    ours = [getattr(Stage, name) == bindparam(f"of_{name}") for name in ("id", "epoch", "worker")]
    until = func.now() + bindparam("lease", type_=Interval)
    statement = update(Stage).where(*ours, Stage.status == StageStatus.RUNNING)
    return statement.values(lease_until=until).returning(Stage.id)


@cache
def _wanted() -> Select[str, bool]:
    failed = select(Stage.id).where(Stage.job_id == bindparam("of_job"), Stage.status == StageStatus.FAILED).exists()
    return select(Job.status, failed).where(Job.id == bindparam("of_job"))


def _claim(job: Job, stage: Stage, *, worker: str) -> Claim:
    results = {StageName(other.name): other.result or {} for other in job.stages if other.status in STAGE_DONE}
    return Claim(
        stage_id=stage.id,
        job_id=job.id,
        stage=StageName(stage.name),
        epoch=stage.epoch,
        worker=worker,
        spec=JobSpec.model_validate(job.spec),
        results=results,
        override=stage.override or {},
        project_id=job.project_id,
    )


def _unreadable(error: ValidationError) -> Outcome:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return Outcome(
        status="failed",
        reason="spec_unreadable",
        reason_class=ReasonClass.CONTROL_PLANE,
        message=f"this worker's version cannot read the job: {where}: {first['msg']}",
    )


def _held(session: Session, claim: Claim) -> tuple[Job, Stage]:
    """Lock the job, and make sure the stage is still ours."""
    job = lock_job(session, claim.job_id)
    ours = (claim.stage_id, claim.epoch, claim.worker, StageStatus.RUNNING)
    for stage in job.stages:
        if (stage.id, stage.epoch, stage.worker, stage.status) == ours:
            return job, stage
    raise FencedError("the lease was lost", value=claim.stage_id)


def _write_condition(session: Session, job: Job, stage: Stage, condition: Mapping[str, Any]) -> None:
    """On the stage, as long as it lasts; in the history, when it begins."""
    changed = stage.reason != condition["reason"]
    stage.reason, stage.reason_class, stage.message = condition["reason"], None, condition["message"]
    if changed:
        text = f"{stage.name}: {condition['message']}"
        add_event(session, job, text, stage=stage.name, type_="condition", data={"reason": condition["reason"]})
