"""The life of a Celery worker that supervises stages: start, heartbeat row, drain on SIGTERM.

One pool thread, so one stage at a time; the pool is made of threads because the work is in child processes and the
supervisor must outlive their crashes. A worker whose broker is away keeps what it runs and finds new work in the
database.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Celery, signals
from celery.worker import WorkController
from sqlalchemy import Engine

from regraft.discover import version_of
from regraft.jobstore import UNREACHABLE, Leases, Workers
from regraft.jobstore.losses import Losses
from regraft.pulse import Pulse
from regraft.queue import hand_over, invite, is_busy, register, register_assistance
from regraft.runner import Supervisor
from regraft.settings import Settings
from regraft.takeover import Successor

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a worker service is made of."""

    name: str
    module: str
    """Module with its stage process, e.g. `regraft_worker.stage`."""
    queues: Sequence[str]
    offers: Mapping[str, Any]
    """What it can run, for the API to check requests against: `targets` with facts about each, `sources`."""
    assists_in: str | None = None
    """The queue whose workers help one another, when their stages have work to share."""


def serve(app: Celery, engine: Engine, settings: Settings, service: Service) -> None:
    """Run the worker until it is told to stop; returns after the running stage has saved and been handed back."""
    name = f"{service.name}@{socket.gethostname()}-{os.getpid()}"
    asked = partial(_invite, app, service.assists_in)
    supervisor = Supervisor(
        leases=Leases(engine, settings), settings=settings, worker=name, module=service.module, invite=asked
    )
    register(app, supervisor.run)
    register_assistance(app, supervisor.assist)
    successor = Successor(Losses(engine, settings), settings)
    successor.clear_away()
    successor.look()
    beat = Heartbeat(Workers(engine), name, service, Pulse(settings.pulse_path))
    poller = Poller(supervisor, service.queues, successor=successor, on_start=beat.start)
    # Celery connects signals weakly; these two live as long as this call. The worker's own `worker_ready` would come
    # only once the broker has answered.
    begins: Callable[..., None] = lambda sender, **_: poller.start(sender)  # noqa: E731
    leaving: Callable[..., None] = lambda **_: supervisor.drain.set()  # noqa: E731
    signals.worker_init.connect(begins, weak=False)
    signals.worker_shutting_down.connect(leaving, weak=False)
    try:
        app.worker_main(_arguments(name, settings))
    finally:
        poller.stop()
        beat.stop()


def _invite(app: Celery, queue: str | None, where: str, workers: int) -> None:
    if queue is not None:
        invite(app, queue=queue, where=where, workers=workers)


def _arguments(name: str, settings: Settings) -> list[str]:
    flags = ["--pool=threads", "--concurrency=1", "--without-gossip", "--without-mingle"]
    return ["worker", f"--hostname={name}", f"--loglevel={settings.log_level}", *flags]


class Poller:
    """Looks after workers of this machine that were killed, and, while this one is idle, for ready stages in the
    database; from a thread of its own."""

    STARTING_SECONDS = 0.2

    def __init__(
        self, supervisor: Supervisor, queues: Sequence[str], *, successor: Successor, on_start: Callable[[], None]
    ) -> None:
        self._supervisor = supervisor
        self._successor = successor
        self._queues = queues
        self._on_start = on_start
        self._stop = threading.Event()

    def start(self, worker: WorkController) -> None:
        """Begin, once the worker can take a task."""
        threading.Thread(target=self._run, args=(worker,), name="poller", daemon=True).start()

    def stop(self) -> None:
        """End before the next look."""
        self._stop.set()

    def _run(self, worker: WorkController) -> None:
        while getattr(worker, "pool", None) is None:
            if self._stop.wait(self.STARTING_SECONDS):
                return
        self._on_start()
        seconds = self._supervisor.settings.poll_seconds
        # Spread, so that a fleet that was started at once does not ask at once.
        while not self._stop.wait(seconds * random.uniform(0.5, 1.5)):
            try:
                self._successor.look()
                self._look(worker)
            except Exception:  # whatever it is, a worker that looks no more would wait for the broker alone
                log.exception("the look for work has failed, the next one will be made")

    def _look(self, worker: WorkController) -> None:
        if is_busy() or self._supervisor.drain.is_set():
            return
        try:
            waiting = self._supervisor.leases.ready(self._queues, limit=1)
        except UNREACHABLE as error:
            log.warning("the database is unreachable, trying again: %s", error)
            return
        for stage_id in waiting:
            hand_over(worker, stage_id)


class Heartbeat:
    """Keeps the worker's row fresh from a thread of its own."""

    def __init__(self, workers: Workers, name: str, service: Service, pulse: Pulse) -> None:
        self._pulse = pulse
        self._workers = workers
        self._name = name
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye; a database that is away will find out by silence."""
        self._stop.set()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout=5)
        try:
            self._workers.gone(self._name)
        except UNREACHABLE as error:
            log.warning("could not sign off: %s", error)

    def _run(self) -> None:
        while True:
            self._pulse.beat()
            try:
                self._beat()
            except UNREACHABLE as error:
                log.warning("the database is unreachable, trying again: %s", error)
            if self._stop.wait(BEAT_SECONDS):
                return

    def _beat(self) -> None:
        service = self._service
        self._workers.seen(
            self._name,
            service=service.name,
            version=version_of("regraft"),
            queues=service.queues,
            offers=service.offers,
        )
