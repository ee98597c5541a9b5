"""Dispatcher and workers show that they turn, whether or not their servers answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from helpers import eventually
from regraft.dispatcher import Dispatcher
from regraft.jobstore import Announcements, Workers, make_engine
from regraft.pulse import Pulse
from regraft.queue import Broker, make_celery
from regraft.settings import Settings
from regraft.workerprocess import Heartbeat, Service


@contextmanager
def dispatching(settings: Settings, engine: Engine, path: Path) -> Iterator[None]:
    dispatcher = Dispatcher(Announcements(engine, settings), Broker(make_celery(settings)), Pulse(str(path)))
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    try:
        yield
    finally:
        dispatcher.stop.set()
        thread.join(timeout=30)


@pytest.mark.parametrize("database", ["answers", "is away"])
def test_a_dispatcher_touches_its_file_again_and_again(settings: Settings, tmp_path: Path, database: str) -> None:
    if database == "is away":
        settings = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"})
    engine = make_engine(settings)
    with dispatching(settings, engine, tmp_path / "pulse"):
        for _ in range(2):
            eventually((tmp_path / "pulse").exists, what="a touch")
            (tmp_path / "pulse").unlink()
    engine.dispose()


def test_a_worker_touches_its_file(engine: Engine, tmp_path: Path) -> None:
    service = Service(name="worker", module="none", queues=["train.cpu"], offers={})
    heartbeat = Heartbeat(Workers(engine), "worker@here-1", service, Pulse(str(tmp_path / "pulse")))
    heartbeat.start()
    eventually((tmp_path / "pulse").exists, what="a touch")
    heartbeat.stop()
