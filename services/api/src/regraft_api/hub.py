"""Live events: one database connection of this process listens, however many clients watch.

A notification names a job. The new events of all jobs that were named lately are read at a time, made into text once,
and handed to everybody who watches; each skips what it has sent already. What happens within `REST_SECONDS` of that is
sent together the next time: one event costs a client as much as ten do. A client that does not read fast enough is
cut off rather than remembered for; it comes back with the id of its last event and misses nothing. Should a
notification be lost, a look every `LOOK_SECONDS` finds the events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

import psycopg
from psycopg import AsyncConnection, sql
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from regraft.jobstore.notices import EVENTS, KEYS, watch
from regraft.models import Job
from regraft_api.told import PAGE, Told, told

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
REST_SECONDS = 0.05
"""After events were handed out; one that comes alone is handed out at once."""
JOBS = 50  # whose events are read at a time
AT_ONCE = 25  # clients that are written to before requests have their turn
QUEUED = 200  # pages or less that may wait for one client: ten seconds of a job to which something happens all the time
Reader = asyncio.Queue[Told | None]
"""Events in order, a page or less at a time; None: no more will come, the client was too slow."""


class Hub:
    """Made with the application, runs as long as it."""

    def __init__(self, engine: Engine, url: str, *, on_keys: Callable[[bool], None]) -> None:
        self._engine = engine
        self._url = url
        self._on_keys = on_keys
        self._readers: dict[str, set[Reader]] = defaultdict(set)
        self._cursors: dict[str, int] = {}
        self._begun: dict[str, asyncio.Task[None]] = {}
        self._behind: set[str] = set()
        self._work = asyncio.Event()

    @property
    def watchers(self) -> int:
        """Clients that watch now."""
        return sum(len(readers) for readers in self._readers.values())

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._hand_out())
            group.create_task(self._look())

    @contextlib.asynccontextmanager
    async def watching(self, job_id: str) -> AsyncIterator[Reader]:
        """A queue that gets every event which is written from now on, and perhaps some that are older."""
        reader: Reader = asyncio.Queue(QUEUED)
        self._readers[job_id].add(reader)
        if job_id not in self._begun:
            self._begun[job_id] = asyncio.create_task(self._begin(job_id))
        try:
            await asyncio.shield(self._begun[job_id])
            yield reader
        finally:
            self._readers[job_id].discard(reader)
            if not self._readers[job_id]:
                del self._readers[job_id], self._begun[job_id]
                self._cursors.pop(job_id, None)

    async def _begin(self, job_id: str) -> None:
        """Have the job's events notified, and hand out those after the newest one that is there by then.

        Whoever watches reads what is older for itself, after this.
        """
        await asyncio.to_thread(watch, self._engine, [job_id])
        newest = await asyncio.to_thread(self._newest, job_id)
        if job_id in self._readers:
            self._cursors[job_id] = newest

    async def _listen(self) -> None:
        while True:
            try:
                async with await AsyncConnection.connect(self._url, autocommit=True) as connection:
                    for channel in (EVENTS, KEYS):
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    self._on_keys(True)
                    self._catch_up(self._readers)
                    async for notice in connection.notifies():
                        self._heard(notice)
            except psycopg.Error as error:
                log.warning("not listening to the database, trying again: %s", error)
            self._on_keys(False)
            await asyncio.sleep(1.0)

    def _heard(self, notice: psycopg.Notify) -> None:
        if notice.channel == KEYS:
            self._on_keys(True)
        elif notice.payload in self._readers:
            self._catch_up([notice.payload])

    def _catch_up(self, job_ids: Sequence[str] | dict[str, set[Reader]]) -> None:
        self._behind.update(job_ids)
        self._work.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._readers:
                continue
            try:
                await asyncio.to_thread(watch, self._engine, list(self._readers))
            except SQLAlchemyError as error:
                log.warning("the database is unreachable, trying again: %s", error)
            self._catch_up(self._readers)

    async def _hand_out(self) -> None:
        while True:
            await self._work.wait()
            try:
                found = await asyncio.to_thread(told, self._engine, self._take())
            except SQLAlchemyError as error:
                log.warning("the database is unreachable, trying again: %s", error)
                found = {}
            for job_id, events in found.items():
                await self._tell(job_id, events)
            await asyncio.sleep(REST_SECONDS)

    def _take(self) -> dict[str, int]:
        """Some of the jobs that are behind, and the last event of each that was handed out."""
        taken = [self._behind.pop() for _ in range(min(JOBS, len(self._behind)))]
        if not self._behind:
            self._work.clear()
        return {job_id: self._cursors[job_id] for job_id in taken if job_id in self._cursors}

    async def _tell(self, job_id: str, events: Told) -> None:
        readers = list(self._readers.get(job_id, ()))
        if job_id in self._cursors:
            self._cursors[job_id] = events.last
        if len(events.seqs) == PAGE:
            self._catch_up([job_id])
        for start in range(0, len(readers), AT_ONCE):
            for reader in readers[start : start + AT_ONCE]:
                _fill(reader, events)
            await asyncio.sleep(0)

    def events(self, job_id: str, after: int) -> Told | None:
        """Up to a page of events, oldest first; None: there are none. Blocks."""
        return told(self._engine, {job_id: after}).get(job_id)

    def _newest(self, job_id: str) -> int:
        with self._engine.connect() as connection:
            return connection.execute(select(Job.last_event).where(Job.id == job_id)).scalar() or 0


def _fill(reader: Reader, events: Told) -> None:
    try:
        reader.put_nowait(events)
    except asyncio.QueueFull:
        while not reader.empty():
            reader.get_nowait()
        reader.put_nowait(None)
