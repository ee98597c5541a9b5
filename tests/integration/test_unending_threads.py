"""Threads that somebody relies on outlive errors that nobody foresaw, and say so in the log."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, text

from helpers import eventually, spec
from regraft import workerprocess
from regraft.jobstore import Jobs, Leases
from regraft.jobstore.losses import Losses
from regraft.queue import Broker, make_celery
from regraft.runner import Supervisor
from regraft.settings import Settings
from regraft.takeover import Successor
from regraft.workerprocess import Poller
from regraft_api.nudge import Nudge


def rename(engine: Engine, old: str, new: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


def test_the_poller_goes_on_looking(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that is missing is no database that is away."""
    found, started = threading.Event(), threading.Event()
    monkeypatch.setattr(workerprocess, "hand_over", lambda worker, stage_id: found.set())
    brisk = settings.model_copy(update={"poll_seconds": 0.05})
    supervisor = Supervisor(leases=Leases(engine, brisk), settings=brisk, worker="w", module="none")
    successor = Successor(Losses(engine, brisk), brisk)
    poller = Poller(supervisor, ["prepare"], successor=successor, on_start=started.set)
    Jobs(engine).create(spec())
    rename(engine, "stages", "away")
    poller.start(SimpleNamespace(pool=object()))
    try:
        eventually(lambda: "the next one will be made" in caplog.text, what="the error")
        assert not found.is_set()
        rename(engine, "away", "stages")
        assert found.wait(30)
    finally:
        poller.stop()


def test_the_nudge_goes_on_sending(engine: Engine, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    nudge = Nudge(engine, Broker(make_celery(settings)))
    first, second = (Jobs(engine).submit(spec()) for _ in range(2))
    unknown = replace(first, hints=[replace(hint, priority=99) for hint in first.hints])

    def waiting() -> int:
        with engine.connect() as connection:
            return connection.scalar(text("SELECT count(*) FROM outbox")) or 0

    nudge.start()
    try:
        nudge.soon(unknown)
        eventually(lambda: "ValueError" in caplog.text, what="the error")
        assert waiting() == 4
        nudge.soon(second)
        eventually(lambda: waiting() == 2, what="the next job's hints being sent")
    finally:
        nudge.stop()
