"""Watching a job's events over a real socket: order, resumption, heartbeats, and one listener for all watchers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine, text

from helpers import claimed, eventually, key_for, spec
from regraft.embedded import free_port
from regraft.jobstore import Claim, Jobs, Leases, Outcome, Report
from regraft.settings import Settings
from regraft_api.app import create_app
from regraft_api.told import PAGE, told

LISTENERS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'")


@pytest.fixture
def api(settings: Settings) -> Iterator[httpx.Client]:
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), port=port, log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, what="the server")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key_for(settings), timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


class Watch:
    """A client in a thread of its own; `lines` is what it has received."""

    def __init__(self, api: httpx.Client, job_id: str, **headers: str) -> None:
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(api, f"/jobs/{job_id}/events/stream", headers))
        self._thread.start()

    def _read(self, api: httpx.Client, url: str, headers: dict[str, str]) -> None:
        given = {**api.headers, **headers}
        client = httpx.Client(base_url=api.base_url, timeout=30)
        with client, client.stream("GET", url, headers=given) as answer:
            for line in answer.iter_lines():
                self.lines.append(line)  # one by one, to be seen at once

    def ids(self) -> list[int]:
        return [int(line.removeprefix("id: ")) for line in list(self.lines) if line.startswith("id: ")]

    def messages(self) -> list[str]:
        return [json.loads(line[6:])["message"] for line in list(self.lines) if line.startswith("data: ")]

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def say(leases: Leases, claim: Claim, *messages: str) -> None:
    leases.report(claim, Report(events=[{"message": message, "level": "info", "data": None} for message in messages]))


def end(leases: Leases, claim: Claim) -> None:
    leases.finish(claim, Outcome(status="failed", reason="x", message="enough"))


def test_many_watch_and_one_listens(api: httpx.Client, engine: Engine, leases: Leases) -> None:
    job_id = Jobs(engine).create(spec()).id
    claim = claimed(leases, job_id, "prepare")
    watches = [Watch(api, job_id) for _ in range(20)]
    eventually(lambda: all(watch.ids() for watch in watches), what="the older events")
    with engine.connect() as connection:
        assert connection.execute(LISTENERS).scalar_one() == 1
    say(leases, claim, *(f"line {n}" for n in range(450)))
    eventually(lambda: all("line 449" in watch.messages() for watch in watches), seconds=10, what="the new events")
    end(leases, claim)
    for watch in watches:
        watch.join()
        assert watch.ids() == list(range(1, len(watch.ids()) + 1)), "each once, in order"
    assert len({tuple(watch.messages()) for watch in watches}) == 1
    assert watches[0].messages()[-1] == "job is failed"


def test_jobs_that_are_read_together_are_told_apart(api: httpx.Client, engine: Engine, leases: Leases) -> None:
    jobs = [Jobs(engine).create(spec()).id for _ in range(3)]
    claims = [claimed(leases, job_id, "prepare") for job_id in jobs]
    watches = [Watch(api, job_id) for job_id in jobs]
    eventually(lambda: all(watch.ids() for watch in watches), what="the older events")
    for number in range(30):  # faster than they are handed out, each in a transaction of its own
        for job_id, claim in zip(jobs, claims, strict=True):
            say(leases, claim, f"{job_id} {number}")
    for claim in claims:
        end(leases, claim)
    for job_id, watch in zip(jobs, watches, strict=True):
        watch.join()
        assert watch.ids() == list(range(1, len(watch.ids()) + 1)), "each once, in order"
        said = [message for message in watch.messages() if message.startswith("job-")]
        assert said == [f"{job_id} {number}" for number in range(30)]


def test_of_a_job_that_is_far_behind_a_page_at_a_time_is_read(engine: Engine, leases: Leases) -> None:
    long, short, quiet = (Jobs(engine).create(spec()).id for _ in range(3))
    say(leases, claimed(leases, long, "prepare"), *(f"line {n}" for n in range(PAGE + 9)))
    say(leases, claimed(leases, short, "prepare"), "one line")
    newest = {job_id: Jobs(engine).get(job_id).last_event for job_id in (long, short, quiet)}
    found = told(engine, {long: 2, short: newest[short] - 1, quiet: newest[quiet]})
    assert {job_id: events.seqs for job_id, events in found.items()} == {
        long: tuple(range(3, 3 + PAGE)),
        short: (newest[short],),
    }
    assert told(engine, {}) == {}


def test_a_stream_goes_on_after_the_event_it_was_cut_off_at(api: httpx.Client, engine: Engine, leases: Leases) -> None:
    job_id = Jobs(engine).create(spec()).id
    end(leases, claimed(leases, job_id, "prepare"))
    last = Jobs(engine).get(job_id).last_event
    watch = Watch(api, job_id, **{"Last-Event-ID": "4"})
    watch.join()
    assert watch.ids() == list(range(5, last + 1))
    assert api.get(f"/jobs/{job_id}/events/stream", params={"after": last}).status_code == 204, "do not come back"


def test_while_nothing_happens_there_are_heartbeats(
    api: httpx.Client, engine: Engine, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft_api.routes.events.HEARTBEAT_SECONDS", 0.1)
    job_id = Jobs(engine).create(spec()).id
    watch = Watch(api, job_id)
    eventually(lambda: watch.lines.count(": still here") > 2, what="heartbeats")
    end(leases, claimed(leases, job_id, "prepare"))
    watch.join()


def test_events_are_found_after_the_listener_was_cut_off(
    api: httpx.Client, engine: Engine, leases: Leases, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = Jobs(engine).create(spec()).id
    claim = claimed(leases, job_id, "prepare")
    watch = Watch(api, job_id)
    eventually(watch.ids, what="the older events")
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
    with engine.begin() as connection:
        connection.execute(text(f"{kill} AND datname = current_database()"))
    say(leases, claim, "said while nobody listened")
    eventually(lambda: "said while nobody listened" in watch.messages(), seconds=10, what="the event")
    end(leases, claim)
    watch.join()


def test_a_job_that_nobody_watches_notifies_nobody(engine: Engine, leases: Leases) -> None:
    with listening(engine) as heard:
        job_id = Jobs(engine).create(spec()).id
        say(leases, claimed(leases, job_id, "prepare"), "to nobody")
        with engine.begin() as connection:
            connection.execute(text("NOTIFY regraft_events, 'the end'"))
        assert heard() == ["the end"]


@contextmanager
def listening(engine: Engine) -> Iterator[object]:
    import psycopg

    with psycopg.connect(engine.url.render_as_string(False).replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("LISTEN regraft_events")
        yield lambda: [notice.payload for notice in connection.notifies(timeout=5, stop_after=1)]
