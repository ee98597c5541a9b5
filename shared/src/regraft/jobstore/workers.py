"""Heartbeat rows: which workers are alive and what they can run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session

from regraft.models import Worker

ALIVE = timedelta(seconds=60)


class Workers:
    """What is alive now. Refreshed by each worker every few seconds.

    `remember_seconds`: how long an answer of `alive` may be given again; for a process that asks at every request.
    """

    def __init__(self, engine: Engine, *, remember_seconds: float = 0.0) -> None:
        self._engine = engine
        self._at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._remember = remember_seconds
        self._found: tuple[float, list[Worker]] = (float("-inf"), [])

    def seen(self, name: str, *, service: str, version: str, queues: Sequence[str], offers: Mapping[str, Any]) -> None:
        """Write a worker's row."""
        row = {"name": name, "service": service, "version": version, "queues": list(queues), "offers": dict(offers)}
        with self._at_once.connect() as connection:  # one statement, in one round trip instead of three
            connection.execute(_seen(), row)

    def gone(self, name: str) -> None:
        """A worker says goodbye."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(Worker).where(Worker.name == name))

    def alive(self) -> list[Worker]:
        """Workers heard of within a minute."""
        asked, found = self._found
        began = time.monotonic()
        if began - asked < self._remember:
            return found
        statement = select(Worker).where(Worker.seen_at > func.now() - ALIVE).order_by(Worker.name)
        with Session(self._at_once, expire_on_commit=False) as session:
            found = list(session.scalars(statement))
        self._found = (began, found)  # several threads may ask at once, which is waste and no harm
        return found


@cache
def _seen() -> Insert:
    statement = insert(Worker)
    said = {name: statement.excluded[name] for name in ("service", "version", "queues", "offers")}
    return statement.on_conflict_do_update(index_elements=["name"], set_={**said, "seen_at": func.now()})
