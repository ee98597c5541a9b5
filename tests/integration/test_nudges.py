"""A new job is sent at once: the API says that there is something to send, and the dispatcher hears it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from helpers import eventually, key_for, spec
from regraft import dispatcher as module
from regraft.dispatcher import Dispatcher
from regraft.jobstore import Announcements, Jobs
from regraft.jobstore.notices import OUTBOX, nudge
from regraft.queue import Broker, make_celery
from regraft.settings import Settings
from regraft_api.app import create_app


@contextmanager
def running(engine: Engine, settings: Settings) -> Iterator[Dispatcher]:
    made = Dispatcher(Announcements(engine, settings), Broker(make_celery(settings)))
    threads = [threading.Thread(target=made.run), threading.Thread(target=made.listen, args=(settings.database_url,))]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stop.set()
        made.wake.set()
        for thread in threads:
            thread.join()


def test_a_dispatcher_that_hardly_ever_looks_hears_of_a_job(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 600.0)

    def all_sent() -> bool:
        with engine.connect() as connection:
            return connection.scalar(text("SELECT count(*) FROM outbox")) == 0

    def sent_when_told() -> bool:
        nudge(engine)  # again and again: at first it may not be listening yet
        return all_sent()

    with running(engine, settings):
        for _ in range(3):  # the first may be found by the first look
            Jobs(engine).create(spec())
            eventually(sent_when_told, seconds=20, what="the hints being sent")


def test_a_request_that_creates_a_job_says_so(settings: Settings) -> None:
    unchecked = settings.model_copy(update={"check_files": False})
    job = spec().model_dump(mode="json", by_alias=True)
    with psycopg.connect(settings.database_url, autocommit=True) as listener:
        listener.execute(f"LISTEN {OUTBOX}")
        with TestClient(create_app(unchecked), headers=key_for(settings)) as client:
            assert client.post("/jobs", json=job).status_code == 202
            assert [notice.channel for notice in listener.notifies(timeout=20, stop_after=1)] == [OUTBOX]
            client.post("/jobs", json={})
        assert not list(listener.notifies(timeout=0.2))
