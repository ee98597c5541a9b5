"""What the dispatcher needs: messages to send, leases that ran out, ready stages that nobody has taken."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from regraft.jobs import ReasonClass, StageStatus
from regraft.jobstore.advance import advance, announce, lock_job
from regraft.jobstore.limits import next_to_admit
from regraft.jobstore.outcomes import Outcome, settle
from regraft.models import Outbox, Stage, Worker
from regraft.settings import Settings

BATCH = 100
FORGOTTEN = timedelta(days=1)
Publish = Callable[[str, str, int], None]
"""Sends one message: queue, stage id, priority (1 first)."""


class Announcements:
    """Safe to run in several processes at once."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def send(self, publish: Publish) -> int:
        """Hand up to a batch of due messages to `publish(queue, stage_id, priority)` and forget them; returns how many.

        When `publish` raises, the messages stay and the exception goes on: a message may be sent twice, never lost.
        """
        due = (
            select(Outbox)
            .where(Outbox.available_at <= func.now())
            .order_by(Outbox.priority, Outbox.id)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        with Session(self._engine) as session, session.begin():
            rows = list(session.scalars(due))
            for row in rows:
                publish(row.queue, row.stage_id, row.priority)
            session.execute(delete(Outbox).where(Outbox.id.in_([row.id for row in rows])))
            return len(rows)

    def reclaim(self) -> int:
        """Take stages back whose lease has run out; returns how many."""
        expired = select(Stage.id, Stage.job_id).where(
            Stage.status == StageStatus.RUNNING, Stage.lease_until < func.now()
        )
        with Session(self._engine) as session:
            rows = list(session.execute(expired.limit(BATCH)))
        return sum(self._reclaim_one(stage_id, job_id) for stage_id, job_id in rows)

    def _reclaim_one(self, stage_id: str, job_id: str) -> bool:
        with Session(self._engine) as session, session.begin():
            job = lock_job(session, job_id)
            still = select(Stage).where(
                Stage.id == stage_id, Stage.status == StageStatus.RUNNING, Stage.lease_until < func.now()
            )
            stage = session.scalar(still)
            if stage is None:
                return False
            settle(session, job, stage, _lost(stage), settings=self._settings)
            return True

    def repeat(self, *, is_empty: Callable[[str], bool]) -> int:
        """Announce ready stages again that were announced long ago and whose queue is empty; returns how many.

        A message may have been lost with Redis. A queue that is not empty still holds its hints.
        """
        patience = timedelta(seconds=self._settings.announce_seconds)
        stale = select(Stage).where(
            Stage.status == StageStatus.READY,
            Stage.available_at <= func.now(),
            Stage.announced_at < func.now() - patience,
        )
        with Session(self._engine) as session, session.begin():
            order = stale.order_by(Stage.announced_at).limit(BATCH)
            rows = list(session.scalars(order.with_for_update(skip_locked=True)))
            empty = {queue: is_empty(queue) for queue in {stage.queue for stage in rows}}
            lost = [stage for stage in rows if empty[stage.queue]]
            for stage in lost:
                announce(session, stage)
            return len(lost)

    def admit(self) -> int:
        """Let jobs start that waited for a slot of their project; returns how many."""
        with Session(self._engine) as session:
            waiting = next_to_admit(session, at_most=BATCH)
        for job_id in waiting:
            with Session(self._engine) as session, session.begin():
                job = lock_job(session, job_id)
                advance(session, job)
        return len(waiting)

    def forget(self) -> None:
        """Drop the rows of workers that were heard of last a day ago."""
        with self._engine.begin() as connection:
            connection.execute(delete(Worker).where(Worker.seen_at < func.now() - FORGOTTEN))


def _lost(stage: Stage) -> Outcome:
    return Outcome(
        status="failed",
        reason="worker_lost",
        reason_class=ReasonClass.INFRASTRUCTURE,
        message=f"worker {stage.worker} has not been heard of since its lease ran out",
    )
