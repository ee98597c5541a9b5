"""Heartbeat rows: which workers are alive and what they can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from regraft.models import Worker

ALIVE = timedelta(seconds=60)


class Workers:
    """What is alive now. Refreshed by each worker every few seconds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def seen(self, name: str, *, service: str, version: str, queues: Sequence[str], offers: Mapping[str, Any]) -> None:
        """Write a worker's row."""
        values = {"service": service, "version": version, "queues": list(queues), "offers": dict(offers)}
        statement = insert(Worker).values(name=name, **values)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={**values, "seen_at": func.now()})
        with Session(self._engine) as session, session.begin():
            session.execute(statement)

    def gone(self, name: str) -> None:
        """A worker says goodbye."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(Worker).where(Worker.name == name))

    def alive(self) -> list[Worker]:
        """Workers heard of within a minute."""
        statement = select(Worker).where(Worker.seen_at > func.now() - ALIVE).order_by(Worker.name)
        with Session(self._engine, expire_on_commit=False) as session:
            return list(session.scalars(statement))
