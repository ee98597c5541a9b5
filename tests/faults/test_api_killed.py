"""An API that is killed while it creates a job, and a client that asks again with the same key: case 24."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import Engine, text

from helpers import eventually, key_for, spec
from regraft.embedded import free_port
from regraft.localstack import Process
from regraft.settings import Settings

WAITING = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@contextmanager
def api(settings: Settings) -> Iterator[tuple[Process, httpx.Client]]:
    chosen = settings.model_copy(update={"api_port": free_port(), "check_files": False})
    process = Process("api", chosen)
    process.start()
    headers = {**key_for(settings), "Idempotency-Key": "once"}
    client = httpx.Client(base_url=f"http://127.0.0.1:{chosen.api_port}", headers=headers, timeout=30)
    try:
        eventually(lambda: answers(client), what="the API answering")
        yield process, client
    finally:
        client.close()
        process.terminate()
        process.wait(time.monotonic() + 20)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


def post(client: httpx.Client) -> httpx.Response | None:
    try:
        return client.post("/jobs", json=spec().model_dump(mode="json", by_alias=True))
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("carried_out", [False, True], ids=["rolled back", "committed"])
def test_a_request_that_is_repeated_creates_one_job(engine: Engine, settings: Settings, carried_out: bool) -> None:
    answers: list[httpx.Response | None] = []
    with api(settings) as (process, client), engine.connect() as blocker:
        blocker.execute(text("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"))
        asking = threading.Thread(target=lambda: answers.append(post(client)))
        asking.start()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as looking:
            waiting = eventually(lambda: looking.scalar(WAITING), what="the statement waiting before its commit")
            os.kill(process.pid, signal.SIGKILL)
            asking.join()
            if not carried_out:
                looking.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": waiting})
        blocker.rollback()
    assert answers == [None]
    jobs = text("SELECT count(*) FROM jobs")
    with engine.connect() as connection:
        if carried_out:
            eventually(lambda: connection.scalar(jobs) == 1, what="the commit that nobody heard of")
    with api(settings) as (_, client):
        first, second = post(client), post(client)
    assert first is not None and second is not None
    assert (first.status_code, first.json()) == (202, second.json())
    assert ("Idempotent-Replayed" in first.headers) is carried_out
    with engine.connect() as connection:
        assert connection.scalar(jobs) == 1
        assert connection.scalar(text("SELECT count(*) FROM stages")) == 5
