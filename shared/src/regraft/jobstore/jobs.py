"""Jobs as the API sees them: create, read, list, cancel, and what they left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Engine, Select, select, tuple_
from sqlalchemy.orm import Session

from regraft import jobs as rules
from regraft.errors import ConflictError
from regraft.jobs import JobStatus, Priority, StageStatus
from regraft.jobstore.advance import add_event, advance, lock_job, no_such_job, set_stage
from regraft.jobstore.creation import Accepted, create, created_before
from regraft.jobstore.cursors import place_of
from regraft.models import DEFAULT_PROJECT, Artifact, Event, Job, Metric
from regraft.specs import JobSpec

Order = Literal["asc", "desc"]


class Jobs:
    """Rows returned are detached: what was read is there, nothing more is fetched."""

    def __init__(self, engine: Engine, *, project: str = DEFAULT_PROJECT) -> None:
        self._engine = engine
        self._project = project

    def create(self, spec: JobSpec, *, warnings: Sequence[str] = (), priority: Priority | None = None) -> Job:
        """Write the job, its stages, its first events and the first messages in one transaction.

        Raises:
            LimitError: the project has as many unfinished jobs as it may have.
        """
        if priority is not None:
            spec = spec.model_copy(update={"priority": f"p{int(priority)}"})
        return self.get(self.submit(spec, warnings=warnings).id)

    def submit(self, spec: JobSpec, *, warnings: Sequence[str] = (), key: str | None = None) -> Accepted:
        """The same, answering with the job as it was created; with a key, only the first of equal requests creates.

        Raises:
            InvalidInputError: the key was used for another request.
            ConflictError: the first request with this key is still being worked on.
            LimitError: the project has as many unfinished jobs as it may have.
        """
        return create(self._engine, spec, project=self._project, warnings=warnings, key=key)

    def submitted_before(self, spec: JobSpec, *, key: str | None) -> Accepted | None:
        """What `submit` has answered to the same request with the same key; None: nothing yet, or no key.

        Raises:
            InvalidInputError: the key was used for another request.
        """
        return created_before(self._engine, spec, project=self._project, key=key)

    def get(self, job_id: str) -> Job:
        """One job with its stages and attempts.

        Raises:
            NotFoundError: there is none, or it is another project's.
        """
        with Session(self._engine, expire_on_commit=False) as session:
            job = session.get(Job, job_id)
            if job is None or job.project_id != self._project:
                raise no_such_job(job_id)
            return job

    def exists(self, job_id: str) -> None:
        """Nothing, if there is such a job.

        Raises:
            NotFoundError: there is none, or it is another project's.
        """
        with self._engine.connect() as connection:
            mine = select(Job.id).where(Job.id == job_id, Job.project_id == self._project)
            if connection.execute(mine).first() is None:
                raise no_such_job(job_id)

    def find(
        self,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
        status: JobStatus | None = None,
        labels: Mapping[str, str] | None = None,
        order: Order = "desc",
    ) -> tuple[list[Job], bool]:
        """Up to `limit` jobs in the order they were created, and whether there are more.

        Raises:
            InvalidInputError: `after` or `before` is no job of the project.
        """
        statement = select(Job).where(Job.project_id == self._project)
        if status is not None:
            statement = statement.where(Job.status == status)
        if labels:
            statement = statement.where(Job.labels.contains(dict(labels)))
        with Session(self._engine, expire_on_commit=False) as session:
            for field, cursor, forward in (("after", after, order == "asc"), ("before", before, order == "desc")):
                if cursor is not None:
                    of = (Job.id == cursor, Job.project_id == self._project)
                    (seq,) = place_of(session, (Job.seq,), *of, cursor=cursor, field=field)
                    statement = statement.where(Job.seq > seq if forward else Job.seq < seq)
            # `before` asks for the page that ends at the cursor: read backwards from it, then turn round.
            backwards = before is not None
            ascending = (order == "asc") != backwards
            statement = statement.order_by(Job.seq.asc() if ascending else Job.seq.desc())
            rows = list(session.scalars(statement.limit(limit + 1)))
        page = rows[:limit]
        return (page[::-1] if backwards else page), len(rows) > limit

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; what runs is told to, what does not run never will.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: it has ended.
        """
        with Session(self._engine) as session, session.begin():
            job = lock_job(session, job_id, project=self._project)
            status = JobStatus(job.status)
            if status in rules.JOB_ENDED:
                raise ConflictError(f"the job has already {status}", field="job_id", value=job_id)
            if status is not JobStatus.CANCELLING:
                job.status = rules.job_transition(status, JobStatus.CANCELLING)
                add_event(session, job, "cancellation was asked for", type_="state", data={"status": job.status})
                for stage in job.stages:
                    if stage.status in (StageStatus.PENDING, StageStatus.READY):
                        stage.reason, stage.reason_class = "cancelled", rules.ReasonClass.USER_REQUEST
                        set_stage(session, job, stage, StageStatus.CANCELLED)
                advance(session, job)
        return self.get(job_id)

    def events(self, job_id: str, *, after: int, limit: int) -> tuple[list[Event], bool]:
        """Events with a sequence number above `after`."""
        self.exists(job_id)
        statement = select(Event).where(Event.job_id == job_id, Event.seq > after).order_by(Event.seq)
        return self._page(statement, limit)

    def metrics(
        self, job_id: str, *, names: Sequence[str], after: tuple[int, str, str] | None, limit: int
    ) -> tuple[list[Metric], bool]:
        """Points in the order of (step, stage, name), after the one that `after` names."""
        self.exists(job_id)
        key = (Metric.step, Metric.stage, Metric.name)
        statement = select(Metric).where(Metric.job_id == job_id)
        if after is not None:
            statement = statement.where(tuple_(*key) > tuple_(*after))
        if names:
            statement = statement.where(Metric.name.in_(names))
        return self._page(statement.order_by(*key), limit)

    def artifacts(
        self, job_id: str, *, kinds: Sequence[str], after: str | None, limit: int
    ) -> tuple[list[Artifact], bool]:
        """Artifacts of these kinds in the order they were published, after the one with the id `after`.

        Raises:
            InvalidInputError: `after` is none of them.
        """
        self.exists(job_id)
        listed = (Artifact.job_id == job_id, Artifact.kind.in_(kinds))
        statement = select(Artifact).where(*listed)
        if after is not None:
            with Session(self._engine) as session:
                (seq,) = place_of(session, (Artifact.seq,), Artifact.id == after, *listed, cursor=after)
            statement = statement.where(Artifact.seq > seq)
        return self._page(statement.order_by(Artifact.seq), limit)

    def _page(self, statement: Select[Any], limit: int) -> tuple[list[Any], bool]:
        with Session(self._engine, expire_on_commit=False) as session:
            rows = list(session.scalars(statement.limit(limit + 1)))
        return rows[:limit], len(rows) > limit
