"""What a user may do with a job that is there: pause, resume, try again, change its labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from regraft import jobs as rules
from regraft.errors import ConflictError, RegraftError
from regraft.jobs import JobStatus, Priority, StageName, StageStatus
from regraft.jobstore.advance import add_event, advance, lock_job, set_stage
from regraft.jobstore.limits import prioritise
from regraft.models import DEFAULT_PROJECT, Job
from regraft.plan import queue_for
from regraft.specs import JobSpec, TargetSpec


class VersionError(RegraftError):
    """The job has been changed since it was looked at."""

    reason = "version_mismatch"


class Control:
    """Every method raises NotFoundError when there is no such job in the project."""

    def __init__(self, engine: Engine, *, project: str = DEFAULT_PROJECT) -> None:
        self._engine = engine
        self._project = project

    def pause(self, job_id: str) -> None:
        """What runs saves and stops, and frees its device; what does not run is not started. Twice changes nothing.

        Raises:
            ConflictError: the job has ended, or is being cancelled.
        """
        self._change(job_id, _pause)

    def resume(self, job_id: str, *, target: TargetSpec | None = None) -> None:
        """Go on where the job was paused; with `target`, on other hardware from then on.

        Raises:
            ConflictError: it is not paused.
        """

        def change(session: Session, job: Job) -> None:
            _check_paused(job)
            if target is not None:
                _move(session, job, target)
            _set(session, job, JobStatus.QUEUED, "the job was resumed")
            advance(session, job)

        self._change(job_id, change)

    def retry(self, job_id: str) -> None:
        """Start again at what failed or was cancelled; what was done stays done.

        Raises:
            ConflictError: the job has neither failed nor been cancelled.
        """
        self._change(job_id, _retry)

    def update(
        self,
        job_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        version: int | None = None,
    ) -> None:
        """Change what a user may change of an accepted job; with `version` only if that is what it still is.

        Raises:
            VersionError: it is not.
        """

        def change(session: Session, job: Job) -> None:
            if version is not None and version != job.version:
                raise VersionError("the job has been changed", field="If-Match", value=version, remedy="Look again.")
            job.version += 1
            if labels is not None:
                job.labels = dict(labels)
                add_event(session, job, "labels were changed", data={"labels": dict(labels)})
            if priority is not None:
                prioritise(session, job, priority)
                add_event(session, job, f"priority is now p{priority}", data={"priority": f"p{priority}"})

        self._change(job_id, change)

    def _change(self, job_id: str, change: Callable[[Session, Job], None]) -> None:
        with Session(self._engine) as session, session.begin():
            change(session, lock_job(session, job_id, project=self._project))


def _pause(session: Session, job: Job) -> None:
    status = JobStatus(job.status)
    if status in rules.JOB_HELD:
        return
    if status not in (JobStatus.QUEUED, JobStatus.RUNNING):
        raise _refusal(job, "it cannot be paused")
    running = any(stage.status == StageStatus.RUNNING for stage in job.stages)
    if not running:
        job.admitted_at = None  # its slot is free; resumed, it waits its turn again
    _set(session, job, JobStatus.PAUSING if running else JobStatus.PAUSED, "pausing was asked for")
    advance(session, job)


def _check_paused(job: Job) -> None:
    if job.status == JobStatus.PAUSING:
        raise _refusal(job, "its stage is still saving", remedy="Wait until it is paused.")
    if job.status != JobStatus.PAUSED:
        raise _refusal(job, "only a paused job can be resumed")


def _move(session: Session, job: Job, target: TargetSpec) -> None:
    """To another target: what is left to do waits in that one's queues, and what was changed for the old one is not."""
    before = job.spec["target"]
    job.spec = {**job.spec, "target": target.model_dump(mode="json")}
    job.version += 1
    spec = JobSpec.model_validate(job.spec)
    for stage in job.stages:
        if stage.status not in rules.STAGE_DONE:
            stage.queue, stage.override, stage.failures = queue_for(StageName(stage.name), spec), None, 0
    text = f"the job moves from {before['kind']} to {target.kind}; training says what goes over when it goes on"
    add_event(session, job, text, data={"from": before, "to": job.spec["target"]})


def _retry(session: Session, job: Job) -> None:
    if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise _refusal(job, "only what has failed or was cancelled can be tried again")
    _set(session, job, JobStatus.QUEUED, "another try was asked for")
    job.reason = job.reason_class = job.message = job.finished_at = None
    for stage in job.stages:
        if stage.status in (StageStatus.FAILED, StageStatus.CANCELLED):
            stage.reason = stage.reason_class = stage.message = stage.finished_at = None
            stage.failures = 0
            set_stage(session, job, stage, StageStatus.PENDING)
    advance(session, job)


def _set(session: Session, job: Job, status: JobStatus, message: str) -> None:
    job.status = rules.job_transition(JobStatus(job.status), status)
    add_event(session, job, message, type_="state", data={"status": status})


def _refusal(job: Job, why: str, *, remedy: str = "") -> ConflictError:
    running = f" (its stages: {', '.join(f'{stage.name} {stage.status}' for stage in job.stages)})"
    return ConflictError(f"the job is {job.status}; {why}{running}", field="job_id", value=job.id, remedy=remedy)
