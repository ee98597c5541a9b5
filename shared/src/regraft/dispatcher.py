"""The dispatcher: sends what the outbox holds, takes stages back from workers that fell silent, repeats lost hints.

One loop, no memory. Any number may run; when none does, jobs wait and nothing is lost.
"""

from __future__ import annotations

import logging
import signal
import threading

from redis.exceptions import RedisError

from regraft.jobstore import UNREACHABLE, Announcements, make_engine
from regraft.logs import log_to_stderr
from regraft.pulse import Pulse
from regraft.queue import Broker, make_celery
from regraft.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
SWEEP_EVERY = 8  # polls


class Dispatcher:
    """Call `run` in the main thread of a process; set `stop` from a signal handler."""

    def __init__(self, announcements: Announcements, broker: Broker, pulse: Pulse | None = None) -> None:
        self._announcements = announcements
        self._broker = broker
        self._pulse = pulse or Pulse("")
        self.stop = threading.Event()

    def run(self) -> None:
        """Loop until `stop` is set; an unreachable server is waited for."""
        turn = 0
        while not self.stop.is_set():
            self._pulse.beat()
            try:
                sent = self.once(sweep=turn % SWEEP_EVERY == 0)
            except (*UNREACHABLE, Broker.Unreachable, RedisError) as error:
                log.warning("a server is unreachable, trying again: %s", error)
                self.stop.wait(1.0)
                continue
            turn += 1
            if not sent:
                self.stop.wait(POLL_SECONDS)

    def once(self, *, sweep: bool = True) -> int:
        """One turn; returns how many messages were sent."""
        if sweep:
            self._announcements.forget()
            if reclaimed := self._announcements.reclaim():
                log.warning("took %d stages back from silent workers", reclaimed)
            self._announcements.repeat(is_empty=self._broker.is_empty)
        self._announcements.admit()
        return self._announcements.send(self._broker.publish)


def serve(settings: Settings) -> None:
    """Run a dispatcher in this process until SIGTERM or SIGINT."""
    log_to_stderr(settings)
    broker = Broker(make_celery(settings))
    dispatcher = Dispatcher(Announcements(make_engine(settings), settings), broker, Pulse(settings.alive_file))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatcher.stop.set())
    log.info("dispatching")
    dispatcher.run()
