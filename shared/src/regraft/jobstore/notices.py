"""Telling API processes that a job has new events, and dispatchers that there is something to send.

A notification takes a lock of the whole database server until its transaction has been committed, so a fleet that
notified with each event would commit one event at a time. Therefore only jobs that somebody watches are notified:
`watch` says for how long, and `notify` looks whether that has passed. A notification is a hint; whoever misses one
finds the events when it looks.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import Connection, Engine, delete, func, select, update
from sqlalchemy.orm import Session

from regraft.models import Job, Outbox

EVENTS = "regraft_events"
"""Channel; the payload is a job's id."""
KEYS = "regraft_keys"
"""Channel; a key was made or revoked."""
OUTBOX = "regraft_outbox"
"""Channel; there are messages to send."""
WATCHED = timedelta(minutes=2)


def notify(session: Session, job_id: str) -> None:
    """If somebody watches; sent when the session's transaction is committed."""
    watched = select(func.pg_notify(EVENTS, Job.id)).where(Job.id == job_id, Job.watched_until > func.now())
    session.connection().execute(watched)  # past the session, which would write what it holds, one event at a time


def nudge(engine: Engine) -> None:
    """Have dispatchers look into the outbox now.

    In a transaction of its own, which writes nothing and so waits for no disk: many jobs may share one.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(select(func.pg_notify(OUTBOX, "")))


def unhurried(connection: Connection) -> None:
    """Let this transaction's commit not wait for the disk.

    For what is only about sending: a server that crashes may forget that something was sent, and it is sent twice.
    """
    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def sent(engine: Engine, messages: Collection[int]) -> None:
    """Forget messages of the outbox that somebody else than a dispatcher has sent."""
    with engine.begin() as connection:
        unhurried(connection)
        connection.execute(delete(Outbox).where(Outbox.id.in_(messages)))


def watch(engine: Engine, job_ids: Collection[str]) -> None:
    """Have events of these jobs notified for the next `WATCHED`."""
    # In the order of their ids, as whoever locks several rows should.
    rows = select(Job.id).where(Job.id.in_(job_ids)).order_by(Job.id).with_for_update(key_share=True)
    with engine.begin() as connection:
        found = [row.id for row in connection.execute(rows)]
        connection.execute(update(Job).where(Job.id.in_(found)).values(watched_until=func.now() + WATCHED))
