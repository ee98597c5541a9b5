"""The dispatcher: sends what the outbox holds, takes stages back from workers that fell silent, repeats lost hints.

One loop, no memory. Any number may run; when none does, jobs wait and nothing is lost. It looks a few times a second,
and at once when an API process says that it has created a job; when that is not heard, at the next look.
"""

from __future__ import annotations

import logging
import signal
import threading
import time

import psycopg
from psycopg import sql
from redis.exceptions import RedisError

from regraft.jobstore import UNREACHABLE, Announcements, make_engine
from regraft.jobstore.notices import OUTBOX
from regraft.logs import log_to_stderr
from regraft.pulse import Pulse
from regraft.queue import Broker, make_celery
from regraft.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
SWEEP_SECONDS = 2.0
BROKER_AWAY = (Broker.Unreachable, RedisError)


class Dispatcher:
    """Call `run` in the main thread of a process; set `stop` from a signal handler."""

    def __init__(self, announcements: Announcements, broker: Broker, pulse: Pulse | None = None) -> None:
        self._announcements = announcements
        self._broker = broker
        self._pulse = pulse or Pulse("")
        self.stop = threading.Event()
        self.wake = threading.Event()
        """Set from any thread: look now."""

    def run(self) -> None:
        """Loop until `stop` is set; an unreachable server is waited for."""
        sweep_at = 0.0
        while not self.stop.is_set():
            self._pulse.beat()
            self.wake.clear()
            sweep = time.monotonic() >= sweep_at
            try:
                sent = self.once(sweep=sweep)
            except (*UNREACHABLE, *BROKER_AWAY) as error:
                log.warning("a server is unreachable, trying again: %s", error)
                self.stop.wait(1.0)
                continue
            if sweep:
                sweep_at = time.monotonic() + SWEEP_SECONDS
            if not sent:
                self.wake.wait(POLL_SECONDS)

    def once(self, *, sweep: bool = True) -> int:
        """One turn; returns how many messages were sent. What waits comes first, then what the other work has made.

        What `BROKER_AWAY` names goes on only after all that needs the database alone: a worker without a broker finds
        in the database what was taken back from another.
        """
        try:
            sent = self._announcements.send(self._broker.publish)
        except BROKER_AWAY:
            self._tend(sweep=sweep)
            raise
        made = self._tend(sweep=sweep)
        if sweep:
            made += self._announcements.repeat(is_empty=self._broker.is_empty)
        return sent + (self._announcements.send(self._broker.publish) if made else 0)

    def _tend(self, *, sweep: bool) -> int:
        """What needs no broker; returns how many stages and jobs may have something to send now."""
        reclaimed = 0
        if sweep:
            self._announcements.forget()
            reclaimed = self._announcements.reclaim()
        if reclaimed:
            log.warning("took %d stages back from silent workers", reclaimed)
        return reclaimed + self._announcements.admit()

    def listen(self, url: str) -> None:
        """Set `wake` whenever somebody says that there is something to send, until `stop` is set. Blocks."""
        while not self.stop.is_set():
            try:
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(OUTBOX)))
                    while not self.stop.is_set():
                        for _ in connection.notifies(timeout=1.0):
                            self.wake.set()
            except psycopg.Error as error:
                log.warning("not listening to the database, trying again: %s", error)
                self.stop.wait(1.0)


def serve(settings: Settings) -> None:
    """Run a dispatcher in this process until SIGTERM or SIGINT."""
    log_to_stderr(settings)
    broker = Broker(make_celery(settings))
    dispatcher = Dispatcher(Announcements(make_engine(settings), settings), broker, Pulse(settings.pulse_path))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatcher.stop.set())
    threading.Thread(target=dispatcher.listen, args=(settings.database_url,), name="nudges", daemon=True).start()
    log.info("dispatching")
    dispatcher.run()
