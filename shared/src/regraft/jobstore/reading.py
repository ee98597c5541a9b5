"""Questions about jobs that need more than a page of one table: series, queues, where a checkpoint came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, func, literal, null, select, text, tuple_, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, lazyload

from regraft.errors import NotFoundError
from regraft.jobstore.cursors import place_of
from regraft.models import READY, RUNNING, Artifact, Attempt, Job, Metric, Stage

CHECKPOINT = "checkpoint"
PROMOTED = "promoted"
# Equal spans of steps; of each its mean and what a mean hides. The last point is always there as it is.
_SERIES = text("""
WITH edges AS (
    SELECT name, min(step) AS low, max(step) + 1 AS high FROM metrics
    WHERE job_id = :job AND stage = :stage AND name = ANY(:names) GROUP BY name
)
SELECT m.name, max(m.step) AS step, max(m.tokens_seen) AS tokens_seen, avg(m.value) AS value, min(m.value) AS low,
       max(m.value) AS high, (array_agg(m.value ORDER BY m.step DESC))[1] AS last, count(*) AS number
FROM metrics m JOIN edges e ON e.name = m.name
WHERE m.job_id = :job AND m.stage = :stage
GROUP BY m.name, width_bucket(m.step, e.low, e.high, :points) ORDER BY m.name, step
""")


@dataclass(frozen=True)
class QueueDepth:
    """How much waits in a queue."""

    queue: str
    ready: int
    running: int
    oldest_seconds: float
    """Since when the oldest ready stage might have been started."""


class Reading:
    """What was read is detached."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def metric_names(self, job_id: str) -> list[tuple[str, str]]:
        """Stage and name of every series of a job."""
        pairs = select(Metric.stage, Metric.name).where(Metric.job_id == job_id).distinct()
        with self._engine.connect() as connection:
            return sorted((row.stage, row.name) for row in connection.execute(pairs))

    def series(self, job_id: str, *, stage: str, names: Sequence[str], points: int) -> list[Row[Any]]:
        """At most about `points` values of each series, by name and step."""
        given = {"job": job_id, "stage": stage, "names": list(names), "points": points}
        with self._engine.connect() as connection:
            return list(connection.execute(_SERIES, given))

    def attempt(self, job_id: str, stage: str, epoch: int | None) -> tuple[Stage, int]:
        """A stage and the number of one of its attempts; the newest one if none is named.

        Raises:
            NotFoundError: there is no such attempt.
        """
        with Session(self._engine, expire_on_commit=False) as session:
            row = session.scalar(select(Stage).where(Stage.job_id == job_id, Stage.name == stage))
            number = row.epoch if row is not None and epoch is None else epoch
            if row is not None and session.get(Attempt, (row.id, number)) is not None:
                return row, number or 0
        what = stage if epoch is None else f"{stage} {epoch}"
        raise NotFoundError("no such attempt", field="attempt", value=what, remedy="GET /jobs/{id} lists them.")

    def checkpoint(self, job_id: str, checkpoint_id: str) -> Artifact:
        """One checkpoint of a job.

        Raises:
            NotFoundError: there is none.
        """
        kinds = (CHECKPOINT, PROMOTED)
        found = select(Artifact).where(Artifact.id == checkpoint_id, Artifact.job_id == job_id)
        with Session(self._engine, expire_on_commit=False) as session:
            row = session.scalar(found.where(Artifact.kind.in_(kinds)))
        if row is None:
            remedy = "GET /jobs/{id}/checkpoints lists them."
            raise NotFoundError("no such checkpoint", field="checkpoint_id", value=checkpoint_id, remedy=remedy)
        return row

    def promoted(self, source: Artifact, uri: str, *, new_id: str) -> Artifact:
        """The row of a checkpoint that was promoted to `uri`; promoting again finds the first one."""
        detail = {**source.detail, "state": "complete", "parent_id": source.id}
        owner = {"project_id": source.project_id, "job_id": source.job_id, "stage": source.stage, "epoch": source.epoch}
        statement = insert(Artifact).values(id=new_id, **owner, kind=PROMOTED, uri=uri, detail=detail)
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            session.execute(statement.on_conflict_do_nothing(index_elements=["job_id", "kind", "uri"]))
            same = (Artifact.job_id == source.job_id, Artifact.kind == PROMOTED, Artifact.uri == uri)
            return session.scalars(select(Artifact).where(*same)).one()

    def queues(self, *, project: str | None = None) -> list[QueueDepth]:
        """Every queue in which something waits or whose stages run, of one project or of all."""
        mine = () if project is None else (Stage.project_id == project,)
        count, oldest = func.count(), func.min(Stage.available_at)
        # Each by its own index: what waits for others and what has ended, most of a long table, is not looked at.
        ready = select(Stage.queue, count.label("ready"), literal(0).label("running"), oldest.label("since"))
        running = select(Stage.queue, literal(0), count, null())
        parts = union_all(
            ready.where(text(READY), *mine).group_by(Stage.queue),
            running.where(text(RUNNING), *mine).group_by(Stage.queue),
        ).subquery()
        age = func.extract("epoch", func.now() - func.min(parts.c.since))
        statement = select(parts.c.queue, func.sum(parts.c.ready), func.sum(parts.c.running), age)
        with self._engine.connect() as connection:
            rows = connection.execute(statement.group_by(parts.c.queue).order_by(parts.c.queue)).all()
        return [QueueDepth(queue, int(waits), int(runs), max(0.0, float(age or 0))) for queue, waits, runs, age in rows]

    def waiting(self, *, project: str, after: str | None, limit: int) -> tuple[list[Stage], bool]:
        """Ready stages without their attempts, those that have waited longest first.

        Raises:
            InvalidInputError: `after` is no stage of the project; it need not wait any more.
        """
        key = (Stage.available_at, Stage.id)
        statement = select(Stage).where(text(READY), Stage.project_id == project).options(lazyload(Stage.attempts))
        with Session(self._engine, expire_on_commit=False) as session:
            if after is not None:
                last = place_of(session, key, Stage.id == after, Stage.project_id == project, cursor=after)
                statement = statement.where(tuple_(*key) > tuple_(*last))
            rows = list(session.scalars(statement.order_by(*key).limit(limit + 1)))
        return rows[:limit], len(rows) > limit

    def ended(self, job_id: str) -> bool:
        """Whether the job has ended."""
        with self._engine.connect() as connection:
            return connection.execute(select(Job.finished_at).where(Job.id == job_id)).scalar() is not None
