"""Holding a stage: claim it, renew the lease, report what it does, hand it back.

A claim raises the stage's epoch. Every later write names that epoch and is refused (`FencedError`) once somebody else
has claimed or the sweeper has taken the stage away: a worker that was cut off can never write over its successor. It
names the worker too: a standby that is promoted may have missed the last claim, and hands its epoch out a second time.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Engine, cast, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session

from regraft.errors import FencedError
from regraft.jobs import JOB_STARTS_STAGES, STAGE_DONE, JobStatus, ReasonClass, StageName, StageStatus
from regraft.jobstore.advance import add_event, advance, lock_job, stages_of
from regraft.jobstore.limits import not_draining
from regraft.jobstore.outcomes import Outcome, settle
from regraft.models import DEFAULT_PROJECT, Artifact, Attempt, Job, Metric, Stage
from regraft.settings import Settings
from regraft.specs import JobSpec

PRUNED = "pruned"
"""Artifact kind that says: what was at this address has been deleted by the stage's own retention."""

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


@dataclass(kw_only=True)
class Report:
    """What a stage did since the last report."""

    progress: dict[str, Any] | None = None
    condition: dict[str, Any] | None = None
    """`reason` and `message` of what the running stage waits for, or is at."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.progress or self.condition or self.metrics or self.events or self.artifacts)


class Leases:
    """What a worker needs of the store."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def claim(self, stage_id: str, *, worker: str) -> Claim | None:
        """Take a ready stage, or None: it is not ready any more (a doubled, late or stale message)."""
        with Session(self._engine) as session, session.begin():
            job_id = session.scalar(select(Stage.job_id).where(Stage.id == stage_id))
            if job_id is None:
                return None
            job = lock_job(session, job_id)
            if job.status not in JOB_STARTS_STAGES:
                return None
            stage = _take(session, stage_id, worker=worker, lease=self._lease())
            if stage is None:
                return None
            owner = {"stage_id": stage.id, "project_id": job.project_id}
            session.add(Attempt(**owner, epoch=stage.epoch, worker=worker, status="running"))
            text = f"{stage.name} is running on {worker} (attempt {stage.epoch})"
            data = {"status": stage.status, "attempt": stage.epoch, "worker": worker}
            add_event(session, job, text, stage=stage.name, type_="state", data=data)
            advance(session, job)
            try:
                return _claim(session, job, stage, worker=worker)
            except ValidationError as error:
                # Written by another version. Ended at once: a stage that no worker can read must not go round.
                settle(session, job, stage, _unreadable(error), settings=self._settings)
                return None

    def ready(self, queues: Sequence[str], *, limit: int = 8) -> list[str]:
        """Stages that wait in these queues now, in the order in which they should be taken."""
        # Each queue by its own index range: a long queue costs no more than a short one.
        order = (Stage.priority, Stage.available_at)
        found: list[tuple[int, datetime, str]] = []
        with self._engine.connect() as connection:
            for queue in queues:
                waiting = (Stage.status == StageStatus.READY, Stage.queue == queue, Stage.available_at <= func.now())
                rows = connection.execute(select(*order, Stage.id).where(*waiting).order_by(*order).limit(limit))
                found += [(row.priority, row.available_at, row.id) for row in rows]
        return [stage_id for _, _, stage_id in sorted(found)[:limit]]

    def renew(self, claim: Claim) -> None:
        """Extend the lease.

        Raises:
            FencedError: the stage is not ours any more.
        """
        statement = (
            update(Stage).where(*_is_ours(claim)).values(lease_until=func.now() + self._lease()).returning(Stage.id)
        )
        with self._engine.begin() as connection:
            if connection.execute(statement).first() is None:
                raise FencedError("the lease was lost", value=claim.stage_id)

    def wanted(self, claim: Claim) -> Wanted:
        """Whether the stage should go on."""
        with Session(self._engine) as session:
            status = session.scalar(select(Job.status).where(Job.id == claim.job_id))
            failed = select(Stage.id).where(Stage.job_id == claim.job_id, Stage.status == StageStatus.FAILED)
            if status == JobStatus.CANCELLING:
                return Wanted.CANCEL
            if status == JobStatus.PAUSING:
                return Wanted.PAUSE
            return Wanted.DROP if session.scalar(failed.limit(1)) else Wanted.GO_ON

    def report(self, claim: Claim, report: Report) -> None:
        """Write progress, metrics, events and artifacts.

        Raises:
            FencedError: the stage is not ours any more; nothing was written.
        """
        with Session(self._engine) as session, session.begin():
            job, stage = _held(session, claim)
            if report.progress is not None:
                stage.progress = report.progress
            if report.condition is not None:
                _write_condition(session, job, stage, report.condition)
            _write_metrics(session, claim, report.metrics)
            for artifact in report.artifacts:
                _write_artifact(session, claim, artifact)
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


def _take(session: Session, stage_id: str, *, worker: str, lease: timedelta) -> Stage | None:
    """The guarded update: of any number of workers that try, one wins."""
    statement = (
        update(Stage)
        .where(
            Stage.id == stage_id,
            Stage.status == StageStatus.READY,
            Stage.available_at <= func.now(),
            not_draining(),
        )
        .values(
            status=StageStatus.RUNNING,
            epoch=Stage.epoch + 1,
            worker=worker,
            lease_until=func.now() + lease,
            started_at=func.coalesce(Stage.started_at, func.now()),
            finished_at=None,
        )
        .returning(Stage)
    )
    return session.scalars(statement).one_or_none()


def _claim(session: Session, job: Job, stage: Stage, *, worker: str) -> Claim:
    results = {
        StageName(other.name): other.result or {} for other in stages_of(session, job) if other.status in STAGE_DONE
    }
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


def _is_ours(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """Condition of every write."""
    same = (Stage.id == claim.stage_id, Stage.epoch == claim.epoch, Stage.worker == claim.worker)
    return (*same, Stage.status == StageStatus.RUNNING)


def _held(session: Session, claim: Claim) -> tuple[Job, Stage]:
    """Lock the job, and make sure the stage is still ours."""
    job = lock_job(session, claim.job_id)
    stage = session.scalar(select(Stage).where(*_is_ours(claim)))
    if stage is None:
        raise FencedError("the lease was lost", value=claim.stage_id)
    return job, stage


def _write_condition(session: Session, job: Job, stage: Stage, condition: Mapping[str, Any]) -> None:
    """On the stage, as long as it lasts; in the history, when it begins."""
    changed = stage.reason != condition["reason"]
    stage.reason, stage.reason_class, stage.message = condition["reason"], None, condition["message"]
    if changed:
        text = f"{stage.name}: {condition['message']}"
        add_event(session, job, text, stage=stage.name, type_="condition", data={"reason": condition["reason"]})


def _write_metrics(session: Session, claim: Claim, metrics: Sequence[Mapping[str, Any]]) -> None:
    unique = {(point["name"], point["step"]): point for point in metrics}
    if not unique:
        return
    owner = {"project_id": claim.project_id, "job_id": claim.job_id, "stage": claim.stage, "epoch": claim.epoch}
    rows = [{**owner, **point} for point in unique.values()]
    statement = insert(Metric).values(rows)
    changed = {name: statement.excluded[name] for name in ("value", "tokens_seen", "epoch", "created_at")}
    session.execute(statement.on_conflict_do_update(index_elements=["job_id", "stage", "name", "step"], set_=changed))


def _write_artifact(session: Session, claim: Claim, artifact: Mapping[str, Any]) -> None:
    if artifact["kind"] == PRUNED:
        detail = Artifact.detail.op("||")(cast({"state": PRUNED}, JSONB))
        same = (Artifact.job_id == claim.job_id, Artifact.uri == artifact["uri"])
        session.execute(update(Artifact).where(*same).values(detail=detail))
        return
    values = {"kind": artifact["kind"], "uri": artifact["uri"], "detail": dict(artifact["metadata"])}
    values["project_id"] = claim.project_id
    row_id = f"art-{secrets.token_hex(8)}"
    statement = insert(Artifact).values(id=row_id, job_id=claim.job_id, stage=claim.stage, epoch=claim.epoch, **values)
    # A stage reports at least once: after a crash it says again what it had published.
    again = {"detail": statement.excluded.detail}
    session.execute(statement.on_conflict_do_update(index_elements=["job_id", "kind", "uri"], set_=again))
