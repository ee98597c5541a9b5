"""What follows from a change: events, stages that became ready, the job's own status.

Every function here runs inside a transaction that has locked the job's row with `lock_job`. Whoever holds it is the
only one who changes the states of the job and of its stages, so they are read once, and each row is written once: when
the transaction ends.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session, defer, lazyload
from sqlalchemy.orm.attributes import set_committed_value

from regraft import jobs as rules
from regraft.errors import NotFoundError
from regraft.jobs import JobStatus, ReasonClass, StageName, StageStatus
from regraft.jobstore.limits import admitted
from regraft.jobstore.notices import notify
from regraft.models import Event, Job, Outbox, Stage


def lock_job(session: Session, job_id: str, *, project: str | None = None) -> Job:
    """The job's row, locked until the transaction ends; with `project`, only if it is that project's.

    Raises:
        NotFoundError: there is no such job.
    """
    job = _locked(session, _the_job(), job_id=job_id)
    if job is None or project not in (None, job.project_id):
        raise no_such_job(job_id)
    return job


def lock_job_to_claim(session: Session, stage_id: str) -> Job | None:
    """As `lock_job`, the job of a stage that is ready, with its request; None: that stage is not ready any more."""
    return _locked(session, _job_of_ready(), stage_id=stage_id)


def _locked(session: Session, statement: Select[Job], **which: str) -> Job | None:
    """The one job, locked, with its stages as they are under the lock: they are read after it."""
    job = session.scalar(statement, which)
    if job is not None:
        set_committed_value(job, "stages", list(session.scalars(_stages(), {"job_id": job.id})))
    return job


# Made once: to put a statement together takes longer than to have it run. What is left out is read when asked for.
@cache
def _the_job() -> Select[Job]:
    return _for_update(select(Job).where(Job.id == bindparam("job_id"))).options(defer(Job.spec))


@cache
def _job_of_ready() -> Select[Job]:
    ready = select(Stage.job_id).where(Stage.id == bindparam("stage_id"), Stage.status == StageStatus.READY)
    return _for_update(select(Job).where(Job.id == ready.scalar_subquery()))


def _for_update(jobs: Select[Job]) -> Select[Job]:
    # Not FOR UPDATE, which would have every new metric wait: its foreign key only asks that the job's id stays.
    jobs = jobs.with_for_update(key_share=True).options(lazyload(Job.stages))
    return jobs.execution_options(populate_existing=True)


@cache
def _stages() -> Select[Stage]:
    stages = select(Stage).where(Stage.job_id == bindparam("job_id")).order_by(Stage.position)
    return stages.options(lazyload(Stage.attempts)).execution_options(populate_existing=True)


def no_such_job(job_id: str) -> NotFoundError:
    """The same, whether there is none or it is another project's."""
    return NotFoundError("no such job", field="job_id", value=job_id, remedy="GET /jobs lists them.")


def add_event(
    session: Session,
    job: Job,
    message: str,
    *,
    stage: str | None = None,
    level: str = "info",
    type_: str = "message",
    data: dict[str, Any] | None = None,
) -> None:
    """Append to the job's history; the job's row is the counter, and its lock keeps others from counting."""
    job.last_event += 1
    row = Event(job_id=job.id, project_id=job.project_id, seq=job.last_event, stage=stage, level=level, type=type_)
    row.message, row.data = message, data
    session.add(row)
    if job.watched_until is not None:
        notify(session, job.id)


def set_stage(session: Session, job: Job, stage: Stage, status: StageStatus, *, message: str | None = None) -> None:
    """Move a stage along the table, with its event."""
    stage.status = rules.stage_transition(StageStatus(stage.status), status)
    if status in rules.STAGE_ENDED:
        stage.finished_at = func.now()
    text = f"{stage.name} is {status}" + (f": {message}" if message else "")
    level = "error" if status is StageStatus.FAILED else "info"
    add_event(session, job, text, stage=stage.name, level=level, type_="state", data={"status": status})


def announce(session: Session, stage: Stage, *, delay: float = 0.0) -> None:
    """Write the message that says this stage is ready, to be sent in `delay` seconds."""
    at = func.now() + timedelta(seconds=delay)
    stage.available_at = at
    stage.announced_at = at
    row = Outbox(stage_id=stage.id, project_id=stage.project_id, queue=stage.queue, available_at=at)
    row.priority = stage.priority
    session.add(row)


def advance(session: Session, job: Job) -> None:
    """Make stages ready whose needs are met, drop those that can no longer run, and set the job's status."""
    stages = job.stages
    failed = next((stage for stage in stages if stage.status == StageStatus.FAILED), None)
    if failed is not None:
        _give_up_the_rest(session, job, stages, failed)
    if job.status in rules.JOB_HELD:
        _hold(session, job, stages)
    elif job.status in rules.JOB_STARTS_STAGES and admitted(session, job):
        _make_ready(session, job, stages)
    statuses = {StageName(stage.name): StageStatus(stage.status) for stage in stages}
    _set_job_status(session, job, rules.status_of_job(JobStatus(job.status), statuses), failed)


def _make_ready(session: Session, job: Job, stages: list[Stage]) -> None:
    ready = rules.now_ready({StageName(stage.name): StageStatus(stage.status) for stage in stages})
    for stage in stages:
        if stage.name in ready:
            set_stage(session, job, stage, StageStatus.READY)
            announce(session, stage)


def _hold(session: Session, job: Job, stages: list[Stage]) -> None:
    """A held job's stages cannot be claimed: a hint that is still on its way finds nothing ready."""
    for stage in stages:
        if stage.status == StageStatus.READY:
            set_stage(session, job, stage, StageStatus.PENDING)


def _give_up_the_rest(session: Session, job: Job, stages: list[Stage], failed: Stage) -> None:
    for stage in stages:
        if stage.status in (StageStatus.PENDING, StageStatus.READY):
            stage.reason, stage.reason_class = f"{failed.name}_failed", failed.reason_class
            set_stage(session, job, stage, StageStatus.CANCELLED)


def _set_job_status(session: Session, job: Job, status: JobStatus, failed: Stage | None) -> None:
    if status == job.status:
        return
    job.status = rules.job_transition(JobStatus(job.status), status)
    if status is JobStatus.RUNNING and job.started_at is None:
        job.started_at = func.now()
    if status is JobStatus.FAILED and failed is not None:
        job.reason, job.reason_class = failed.reason, failed.reason_class
        job.message = f"{failed.name}: {failed.message}"
    if status is JobStatus.CANCELLED:
        job.reason, job.reason_class = "cancelled", ReasonClass.USER_REQUEST
    if status in rules.JOB_ENDED:
        job.finished_at = func.now()
    if status in rules.JOB_ENDED or status is JobStatus.PAUSED:
        job.admitted_at = None  # its slot is free; one that goes on later waits its turn again
    level = "error" if status is JobStatus.FAILED else "info"
    add_event(session, job, f"job is {status}", level=level, type_="state", data={"status": status})
