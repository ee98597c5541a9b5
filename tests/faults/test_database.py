"""A database that restarts, is away, has no connection left, or whose answer is lost: cases 11, 12, 13, 15, 25."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
from bounds import WITHIN
from plant import Own, Plant
from plant_api import api_of
from proxy import Proxy, through
from sqlalchemy import text

from helpers import eventually


def test_an_immediate_restart_loses_nothing_and_stops_no_stage(own: Own, own_plant: Plant) -> None:
    """Under load: the API accepts jobs, says for how long it cannot, and accepts again."""
    plant = own_plant
    plant.start_worker(plant.patient(), FAULT_STEP_SECONDS="0.1")
    before = count_jobs(plant)
    with api_of(plant) as api:
        job = api.create("running")
        waiting = [api.create("before", steps=5)]
        plant.await_step(job, 4)
        own.postgres.stop(with_signal=signal.SIGQUIT)
        refused = api.post("meanwhile", steps=5)
        assert refused is not None
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        own.postgres.start()
        plant.struck()
        waiting += [api.create(key, steps=5) for key in ("meanwhile", "after")]
        assert api.create("before", steps=5) == waiting[0]
    plant.check(job, within=WITHIN[11])
    plant.check(*waiting, steps=5, within=WITHIN[11])
    assert len(plant.stage(job).attempts) == 1
    assert count_jobs(plant) == before + 4


def count_jobs(plant: Plant) -> int:
    with plant.engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM jobs")) or 0)


def test_a_database_away_for_longer_than_a_lease_fences_the_worker_first(own: Own, own_plant: Plant) -> None:
    plant = own_plant
    plant.start_worker(FAULT_STEP_SECONDS="0.2")
    job = plant.submit(steps=25)
    plant.await_step(job, 3)
    away = time.monotonic()
    own.postgres.stop(with_signal=signal.SIGQUIT)
    eventually(lambda: not plant.children(), seconds=10, what="the end of the child")
    assert time.monotonic() - away < 2 * plant.settings.lease_seconds
    time.sleep(max(0.0, away + 2 * plant.settings.lease_seconds - time.monotonic()))
    own.postgres.start()
    plant.struck()
    plant.check(job, steps=25, within=WITHIN[12])
    assert [attempt.reason for attempt in plant.stage(job).attempts] == ["worker_lost", None]


def test_a_database_without_a_free_connection_refuses_the_new_and_keeps_the_running(own: Own, own_plant: Plant) -> None:
    """For longer than a lease: a running worker renews it on connections that it has, the API says 503."""
    plant = own_plant
    running, before = plant.start_worker(FAULT_STEP_SECONDS="0.1", FAULT_HOLD="50"), count_jobs(plant)
    with api_of(plant) as api:
        first = api.create("first", steps=100)
        plant.await_step(first, 4)
        api.kill()  # it would go on with the connections that it has
        with every_connection(own.postgres.url) as take_more:
            starting = plant.start_worker()
            api.start()
            eventually(lambda: take_more() or api.client.get("/jobs").status_code == 503, what="the API's refusal")
            refused = api.post("second", steps=10)
            assert refused is not None
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            log = plant.settings.home / "worker-1.log"
            eventually(lambda: "database is unreachable" in log.read_text(), seconds=30, what="the worker's refusal")
        plant.struck()
        plant.let_on(first)
        second = api.create("second", steps=10)
    plant.check(first, steps=100, within=WITHIN[15])
    plant.check(second, steps=10, within=WITHIN[15])
    assert (running.poll(), starting.poll()) == (None, None)
    assert (len(plant.stage(first).attempts), count_jobs(plant)) == (1, before + 2)


@contextmanager
def every_connection(url: str) -> Iterator[Callable[[], None]]:
    """Hold all that are free, now and whenever more are asked for."""
    with ExitStack() as held:

        def take() -> None:
            try:
                while True:
                    held.enter_context(psycopg.connect(url, autocommit=True))
            except psycopg.OperationalError as error:
                assert "too many clients" in str(error) or "reserved" in str(error)

        take()
        yield take


def test_an_answer_that_is_lost_changes_nothing(plant: Plant, proxy: Proxy) -> None:
    """The server has committed, the worker never hears: of a renewal, of progress, of whether to go on, which are
    statements by themselves; then of a report with a checkpoint, of an end, and of a claim."""
    plant.start_worker(through(proxy, plant.settings), FAULT_STEP_SECONDS="0.1", FAULT_HOLD="2")
    job = plant.submit(steps=60)
    plant.await_step(job, 2)
    for words in (b"UPDATE stages SET lease_until=", b"SELECT jobs.status, EXISTS", b"UPDATE stages SET progress"):
        before, proxy.drop_reply_to = proxy.dropped, words
        if b"progress" in words:
            plant.let_on(job)
        eventually(lambda: proxy.dropped > before, what=f"a lost answer to {words!r}")  # noqa: B023
        plant.struck()
    for words in (b"INSERT INTO artifacts", b"UPDATE attempts", b"INSERT INTO attempts"):
        before = proxy.dropped
        proxy.drop_commit_of(words)
        eventually(lambda: proxy.dropped > before, what=f"a lost answer to the commit of {words!r}")  # noqa: B023
        plant.struck()
    plant.check(job, steps=60, within=WITHIN[13])
    *_, train, evaluate, export = plant.jobs.get(job).stages
    assert len(train.attempts) == 1, "whatever was lost, the training went on"
    reasons = [attempt.reason for stage in (evaluate, export) for attempt in stage.attempts]
    assert (len(reasons), reasons.count("worker_lost")) == (3, 1), "a claim that nobody knows of is given up"


def test_an_answer_that_the_api_never_gets_creates_no_second_job(plant: Plant, proxy: Proxy) -> None:
    """It cannot know whether there is a job, and says so; the client asks again with its key."""
    with api_of(plant, settings=through(proxy, plant.settings)) as api:
        proxy.drop_reply_to = b"INSERT INTO jobs"
        refused = api.post("once", steps=5)
        plant.struck()
        assert refused is not None
        assert (refused.status_code, proxy.dropped) == (503, 1)
        assert "may have been done" in refused.json()["detail"]
        eventually(lambda: count_jobs(plant) == 1, what="the commit that nobody heard of")
        again = api.post("once", steps=5)
        assert again is not None
        assert again.headers["Idempotent-Replayed"] == "true"
    plant.start_worker()
    plant.check(again.json()["id"], steps=5, within=WITHIN[13])
    assert count_jobs(plant) == 1


def test_a_worker_that_is_cut_off_publishes_nothing_when_it_comes_back(plant: Plant, proxy: Proxy) -> None:
    hasty = through(proxy, plant.settings).model_copy(update={"lease_seconds": 2.0})
    plant.start_worker(hasty, FAULT_STEP_SECONDS="0.2")
    job = plant.submit(steps=25)
    plant.await_step(job, 3)
    child = plant.children()
    cut = time.monotonic()
    proxy.flowing.clear()
    plant.struck()
    eventually(lambda: not set(child) & set(plant.children()), seconds=10, what="the end of the cut-off child")
    assert time.monotonic() - cut < 2 * hasty.lease_seconds
    plant.start_worker()
    eventually(lambda: len(plant.stage(job).attempts) == 2, what="the second attempt")
    time.sleep(max(0.0, cut + 3 * hasty.lease_seconds - time.monotonic()))
    proxy.flowing.set()
    plant.check(job, steps=25, within=WITHIN[25])
    assert [attempt.status for attempt in plant.stage(job).attempts] == ["failed", "succeeded"]
