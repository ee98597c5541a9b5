"""What may start: limits of projects, priorities, and the switch for maintenance.

A job is *admitted* when it may start stages. Without a limit that is at once; with one, further jobs wait unadmitted
and the dispatcher admits the next when a slot is free. So a queue holds only what may run, and a worker that claims
needs to count nothing.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from regraft.errors import LimitError
from regraft.jobs import JobStatus, Priority
from regraft.models import UNFINISHED, WAITING, Job, Maintenance, Outbox, ProjectLimit, Stage


def refuse_one_too_many(session: Session, project_id: str) -> None:
    """Called before a job is written.

    Raises:
        LimitError: the project has as many unfinished jobs as it may have.
    """
    limit = _locked(session, project_id)
    if limit is None or limit.max_unfinished is None:
        return
    count = session.scalar(select(func.count()).where(Job.project_id == project_id, text(UNFINISHED)))
    if count is not None and count >= limit.max_unfinished:
        raise LimitError(
            "the project has as many unfinished jobs as it may have",
            value=limit.max_unfinished,
            remedy="Wait until some have ended, cancel some, or have the limit raised (`regraft limits`).",
            reason="too_many_jobs",
        )


def admitted(session: Session, job: Job) -> bool:
    """Whether a job, whose row is locked, may start stages; admits it if its project has a slot free."""
    if job.admitted_at is not None:
        return True
    if not has_a_slot(session, job.project_id):
        return False
    job.admitted_at = func.now()
    session.flush()
    return True


def has_a_slot(session: Session, project_id: str) -> bool:
    """Whether one more job of the project may run; until the transaction ends nobody else is told so."""
    limit = _locked(session, project_id)
    return limit is None or limit.max_running is None or _running(session, project_id) < limit.max_running


def next_to_admit(session: Session, *, at_most: int) -> list[str]:
    """Jobs that wait although their project has slots free, in the order of priority and age."""
    limits = list(session.scalars(select(ProjectLimit)))
    found: list[str] = []
    for limit in limits:
        free = at_most if limit.max_running is None else limit.max_running - _running(session, limit.project_id)
        waiting = select(Job.id).where(Job.project_id == limit.project_id, text(WAITING))
        found += session.scalars(waiting.order_by(Job.priority, Job.seq).limit(max(0, min(free, at_most))))
    return found


def prioritise(session: Session, job: Job, priority: Priority) -> None:
    """Change a job's place in every queue; its row is locked. What runs goes on."""
    job.priority = priority
    stages = select(Stage.id).where(Stage.job_id == job.id)
    session.execute(update(Stage).where(Stage.job_id == job.id).values(priority=priority))
    session.execute(update(Outbox).where(Outbox.stage_id.in_(stages)).values(priority=priority))


def _running(session: Session, project_id: str) -> int:
    taken = (Job.project_id == project_id, text(UNFINISHED), Job.admitted_at.is_not(None))
    return session.scalar(select(func.count()).where(*taken, Job.status != JobStatus.PAUSED)) or 0


def _locked(session: Session, project_id: str) -> ProjectLimit | None:
    return session.scalar(select(ProjectLimit).where(ProjectLimit.project_id == project_id).with_for_update())


def not_draining() -> ColumnElement[bool]:
    """Condition of a claim."""
    return ~select(Maintenance.id).where(Maintenance.draining).exists()


class Operations:
    """What an operator sets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def limit(self, project_id: str, *, max_unfinished: int | None, max_running: int | None) -> None:
        """Set a project's limits; None is no limit."""
        values = {"max_unfinished": max_unfinished, "max_running": max_running}
        statement = insert(ProjectLimit).values(project_id=project_id, **values)
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["project_id"], set_=values))

    def drain(self, on: bool, *, note: str | None = None) -> None:
        """Switch maintenance on or off. On: nothing new is claimed, running work goes on."""
        values = {"draining": on, "note": note, "since": func.now()}
        statement = insert(Maintenance).values(id=1, **values)
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))

    def maintenance(self) -> Maintenance | None:
        """The switch, or None: it was never touched."""
        with Session(self._engine, expire_on_commit=False) as session:
            return session.get(Maintenance, 1)
