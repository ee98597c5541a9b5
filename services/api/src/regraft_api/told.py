"""Events as those who watch get them: read at a time for all jobs, made once, however many watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from regraft.jobs import JOB_ENDED
from regraft.models import Event
from regraft_api.schemas import EventView

PAGE = 200
"""Events of a job that are read at a time."""
ENDED = {str(status) for status in JOB_ENDED}
_NEWER = text("""
SELECT newer.* FROM unnest(CAST(:jobs AS text[]), CAST(:cursors AS bigint[])) AS watched (job_id, cursor), LATERAL (
    SELECT * FROM events WHERE events.job_id = watched.job_id AND events.seq > watched.cursor
    ORDER BY events.seq LIMIT :page
) AS newer ORDER BY newer.job_id, newer.seq
""")


class Told(NamedTuple):
    """Server-sent events of one job, in order, at least one."""

    seqs: tuple[int, ...]
    texts: tuple[bytes, ...]
    text: bytes
    """All of them; most who watch get just that."""
    ended: int
    """The event with which the job has ended; 0: none of these."""

    @classmethod
    def of(cls, events: Sequence[Event]) -> Told:
        """The events as text."""
        texts = tuple(_text(event) for event in events)
        ended = max((event.seq for event in events if _is_end(event)), default=0)
        return cls(tuple(event.seq for event in events), texts, b"".join(texts), ended)

    @property
    def last(self) -> int:
        """The newest event."""
        return self.seqs[-1]

    def after(self, seq: int) -> bytes:
        """For somebody who has had the events up to `seq`; empty if there is none after it."""
        if seq < self.seqs[0]:
            return self.text
        return b"".join(one for number, one in zip(self.seqs, self.texts, strict=True) if number > seq)


def told(engine: Engine, cursors: Mapping[str, int]) -> dict[str, Told]:
    """Of each job up to a page of the events after its cursor; jobs without any are left out. Blocks."""
    if not cursors:
        return {}
    given = {"jobs": list(cursors), "cursors": list(cursors.values()), "page": PAGE}
    # One statement needs no transaction, which would ask the database twice more.
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        events = session.scalars(select(Event).from_statement(_NEWER), given).all()
        return {job_id: Told.of(list(those)) for job_id, those in groupby(events, key=lambda event: event.job_id)}


def _text(event: Event) -> bytes:
    data = EventView.of(event).model_dump_json()
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode()


def _is_end(event: Event) -> bool:
    return event.stage is None and event.type == "state" and (event.data or {}).get("status") in ENDED
