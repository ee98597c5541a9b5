"""What the dispatcher needs: messages to send, leases that ran out, ready stages that nobody has taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, Select, delete, func, select, text, update
from sqlalchemy.orm import Session

from regraft.jobs import StageStatus
from regraft.jobstore.advance import advance, lock_job
from regraft.jobstore.limits import next_to_admit
from regraft.jobstore.notices import unhurried
from regraft.jobstore.outcomes import settle, worker_lost
from regraft.models import RUNNING, Outbox, Stage, Worker
from regraft.settings import Settings

BATCH = 100
PUT_OFF = timedelta(minutes=1)
FORGOTTEN = timedelta(days=1)
Publish = Callable[[str, str, int], None]
"""Sends one message: queue, stage id, priority (1 first)."""
# From each queue's first ready stage to the next queue: as many look-ups as there are queues, however long they are.
_STALE_QUEUES = text("""
WITH RECURSIVE queues AS (
    (SELECT queue FROM stages WHERE status = 'ready' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT s.queue FROM stages s WHERE s.status = 'ready' AND s.queue > q.queue ORDER BY s.queue LIMIT 1)
    FROM queues q WHERE q.queue IS NOT NULL
)
SELECT queue FROM queues q WHERE EXISTS (
    SELECT FROM stages s
    WHERE s.status = 'ready' AND s.queue = q.queue AND s.announced_at < now() - CAST(:patience AS interval)
)
""")
# A stage keeps its place: how long it has waited is not changed by its being announced again.
_REPEAT = text("""
WITH stale AS (
    SELECT s.id FROM unnest(CAST(:queues AS text[])) AS q (name), LATERAL (
        SELECT id FROM stages
        WHERE status = 'ready' AND queue = q.name AND announced_at < now() - CAST(:patience AS interval)
        ORDER BY announced_at LIMIT :batch FOR UPDATE SKIP LOCKED
    ) AS s LIMIT :batch
), announced AS (
    UPDATE stages SET announced_at = now() FROM stale WHERE stages.id = stale.id
    RETURNING stages.id, project_id, queue, priority
)
INSERT INTO outbox (stage_id, project_id, queue, priority) SELECT id, project_id, queue, priority FROM announced
""")


def _silent(stage_id: str) -> Select[Stage]:
    """The stage if its lease has run out, locked: a renewal goes by its row alone, not by the job's lock.

    One that came first counts; one that comes later finds that the stage was taken away.
    """
    has_run_out = (Stage.id == stage_id, Stage.status == StageStatus.RUNNING, Stage.lease_until < func.now())
    return select(Stage).where(*has_run_out).with_for_update(key_share=True)


class Announcements:
    """Safe to run in several processes at once."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def send(self, publish: Publish) -> int:
        """Hand up to a batch of due messages to `publish(queue, stage_id, priority)` and forget them; returns how many.

        No transaction is open meanwhile: the batch is put off first, so that no other dispatcher takes it. When
        `publish` raises, what it did not take is due again and the exception goes on; a dispatcher that dies sends
        again later: a message may be sent twice, never lost.
        """
        batch = self._put_off()
        sent: list[int] = []
        try:
            for row in batch:
                publish(row.queue, row.stage_id, row.priority)
                sent.append(row.id)
        finally:
            self._forget(sent, due_again=[row.id for row in batch[len(sent) :]])
        return len(sent)

    def _put_off(self) -> list[Any]:
        due = (
            select(Outbox.id)
            .where(Outbox.available_at <= func.now())
            .order_by(Outbox.priority, Outbox.id)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        taken = update(Outbox).where(Outbox.id.in_(due)).values(available_at=func.now() + PUT_OFF)
        with self._engine.begin() as connection:
            unhurried(connection)
            rows = connection.execute(taken.returning(Outbox.id, Outbox.queue, Outbox.stage_id, Outbox.priority))
            return sorted(rows.all(), key=lambda row: (row.priority, row.id))

    def _forget(self, sent: Sequence[int], *, due_again: Sequence[int]) -> None:
        if not sent and not due_again:
            return
        with self._engine.begin() as connection:
            unhurried(connection)
            connection.execute(delete(Outbox).where(Outbox.id.in_(sent)))
            if due_again:
                connection.execute(update(Outbox).where(Outbox.id.in_(due_again)).values(available_at=func.now()))

    def reclaim(self) -> int:
        """Take stages back whose lease has run out; returns how many."""
        expired = select(Stage.id, Stage.job_id).where(text(RUNNING), Stage.lease_until < func.now())
        with Session(self._engine) as session:
            rows = list(session.execute(expired.limit(BATCH)))
        return sum(self._reclaim_one(stage_id, job_id) for stage_id, job_id in rows)

    def _reclaim_one(self, stage_id: str, job_id: str) -> bool:
        with Session(self._engine) as session, session.begin():
            job = lock_job(session, job_id)
            stage = session.scalar(_silent(stage_id))
            if stage is None:
                return False
            message = f"worker {stage.worker} has not been heard of since its lease ran out"
            settle(session, job, stage, worker_lost(message), settings=self._settings)
            return True

    def repeat(self, *, is_empty: Callable[[str], bool]) -> int:
        """Announce ready stages again that were announced long ago and whose queue is empty; returns how many.

        A message may have been lost with Redis. A queue that is not empty still holds its hints.
        """
        patience = {"patience": timedelta(seconds=self._settings.announce_seconds)}
        with self._engine.connect() as connection:
            queues = list(connection.scalars(_STALE_QUEUES, patience))
        lost = [queue for queue in queues if is_empty(queue)]
        if not lost:
            return 0
        with self._engine.begin() as connection:
            return connection.execute(_REPEAT, {**patience, "queues": lost, "batch": BATCH}).rowcount

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
