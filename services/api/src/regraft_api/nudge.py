"""What follows a new job at once, so that it does not wait for the dispatcher's next look.

A job that comes alone has its hints sent from here. Where several come at a time the dispatcher is told instead, some
times a second however many they are: it sends a hundred as cheaply as one, and this process has requests to answer. No
request waits for either. Nothing depends on it: what is not sent from here is in the outbox, and what is sent twice
finds nothing to claim.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from regraft.jobstore import Accepted
from regraft.jobstore.notices import nudge, sent
from regraft.queue import Broker

log = logging.getLogger(__name__)

REST_SECONDS = 0.05


class Nudge:
    """Made with the application, starts and stops with it."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._due = threading.Event()
        self._jobs: deque[Accepted] = deque()
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; an application may be started again after it has stopped."""
        self._over = False
        self._thread = threading.Thread(target=self._run, name="nudge", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; returns when no connection is in use any more."""
        self._over = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def soon(self, job: Accepted) -> None:
        """A job was created. From any thread."""
        self._jobs.append(job)
        self._due.set()

    def _run(self) -> None:
        while True:
            self._due.wait()
            if self._over:
                return
            self._due.clear()
            jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
            try:
                if len(jobs) != 1 or not self._send(jobs[0]):
                    nudge(self._engine)
            except SQLAlchemyError as error:
                log.warning("the dispatcher will find new jobs by itself: %s", error)
            except Exception:  # whatever it is, it is one job's: the next ones must not wait because of it
                log.exception("the dispatcher will find new jobs by itself")
            time.sleep(REST_SECONDS)

    def _send(self, job: Accepted) -> bool:
        if not job.hints:
            return False
        try:
            for hint in job.hints:
                self._broker.publish(hint.queue, hint.stage_id, hint.priority)
        except (Broker.Unreachable, RedisError) as error:
            log.warning("the broker is unreachable, the dispatcher will try again: %s", error)
            return False
        sent(self._engine, job.messages)
        return True
