"""A new job is sent at once: the API says that there is something to send, and the dispatcher hears it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import psycopg
import pytest
import redis
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from helpers import eventually, key_for, spec
from regraft import dispatcher as module
from regraft.dispatcher import Dispatcher
from regraft.jobstore import Announcements, Jobs
from regraft.jobstore.notices import OUTBOX, nudge
from regraft.queue import Broker, make_celery
from regraft.settings import Settings
from regraft_api import nudge as nudges
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


@contextmanager
def api(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"check_files": False}))
    with TestClient(app, headers=key_for(settings)) as client:
        yield client


@contextmanager
def ear(settings: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(settings.database_url, autocommit=True) as listener:
        listener.execute(f"LISTEN {OUTBOX}")
        yield listener


JOB = spec().model_dump(mode="json", by_alias=True)


def waiting(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM outbox")) or 0


def test_the_hints_of_a_job_that_comes_alone_are_sent_at_once_and_no_second_time(
    engine: Engine, settings: Settings
) -> None:
    with redis.Redis.from_url(settings.redis_url) as broker, ear(settings) as listener, api(settings) as client:
        job = client.post("/jobs", json=JOB).json()["id"]
        for queue in ("prepare", "convert"):
            eventually(lambda: broker.llen(f"{queue}\x06\x163"), what=f"the hint in {queue}")  # noqa: B023
            (message,) = broker.lrange(f"{queue}\x06\x163", 0, -1)
            assert f"{job}.{queue}" in base64.b64decode(json.loads(message)["body"]).decode()
        eventually(lambda: waiting(engine) == 0, what="the outbox being empty")
        client.post("/jobs", json={})
        assert not list(listener.notifies(timeout=0.2))


def test_without_a_broker_the_dispatcher_is_told_and_the_outbox_keeps_the_hints(
    engine: Engine, settings: Settings
) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with ear(settings) as listener, api(away) as client:
        assert client.post("/jobs", json=JOB).status_code == 202
        assert [notice.channel for notice in listener.notifies(timeout=20, stop_after=1)] == [OUTBOX]
    assert waiting(engine) == 2


def test_jobs_that_come_together_are_left_to_the_dispatcher(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = threading.Event()  # within which the second and the third come
    monkeypatch.setattr(nudges, "time", SimpleNamespace(sleep=lambda _: rest.wait(30)))
    with ear(settings) as listener, api(settings) as client:
        client.post("/jobs", json=JOB)
        eventually(lambda: waiting(engine) == 0, what="the first one's hints being sent")
        for _ in range(2):
            client.post("/jobs", json=JOB)
        rest.set()
        assert [notice.channel for notice in listener.notifies(timeout=20, stop_after=1)] == [OUTBOX]
    assert waiting(engine) == 4
