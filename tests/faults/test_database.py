"""A database that restarts, is away, is full, or whose answer is lost: cases 11, 12, 13, 15, 23, 25, 34."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from plant import Own, Plant
from proxy import Proxy
from sqlalchemy import text

from helpers import eventually
from regraft.settings import Settings


@pytest.fixture
def proxy(plant: Plant) -> Iterator[Proxy]:
    target = Path(parse_qs(urlsplit(plant.settings.database_url).query)["host"][0])
    with tempfile.TemporaryDirectory() as folder:
        made = Proxy(Path(folder), target)
        yield made
        made.close()


def through(proxy: Proxy, settings: Settings) -> Settings:
    base = settings.database_url.partition("?")[0]
    return settings.model_copy(update={"database_url": f"{base}?host={proxy.folder}"})


def test_an_immediate_restart_loses_nothing_and_stops_no_stage(own: Own, own_plant: Plant) -> None:
    plant = own_plant
    patient = plant.settings.model_copy(update={"lease_seconds": 20.0})  # on a busy machine a server starts slowly
    plant.start_worker(patient, FAULT_STEP_SECONDS="0.1")
    job = plant.submit()
    plant.await_step(job, 4)
    waiting = plant.submit(steps=5)
    own.postgres.stop(with_signal=signal.SIGQUIT)
    own.postgres.start()
    plant.check(job)
    plant.check(waiting, steps=5)
    assert len(plant.stage(job).attempts) == 1


def test_a_database_away_for_longer_than_a_lease_fences_the_worker_first(own: Own, own_plant: Plant) -> None:
    plant = own_plant
    plant.start_worker(FAULT_STEP_SECONDS="0.2")
    job = plant.submit(steps=25)
    plant.await_step(job, 3)
    away = time.monotonic()
    own.postgres.stop()
    eventually(lambda: not plant.children(), seconds=10, what="the end of the child")
    assert time.monotonic() - away < plant.settings.lease_seconds + 1.5
    time.sleep(max(0.0, away + 2 * plant.settings.lease_seconds - time.monotonic()))
    own.postgres.start()
    plant.check(job, steps=25)
    assert [attempt.reason for attempt in plant.stage(job).attempts] == ["worker_lost", None]


def test_a_database_without_a_free_connection_is_waited_for(own: Own, own_plant: Plant) -> None:
    plant = own_plant
    job = plant.submit(steps=10)
    with ExitStack() as held:
        try:
            while True:
                held.enter_context(psycopg.connect(own.postgres.url, autocommit=True))
        except psycopg.OperationalError as error:
            assert "too many clients" in str(error) or "reserved" in str(error)
        worker = plant.start_worker()
        log = plant.settings.home / "worker-0.log"
        eventually(lambda: "database is unreachable" in log.read_text(), seconds=30, what="the refusal")
        assert worker.poll() is None
    plant.check(job, steps=10)


def test_an_answer_that_is_lost_changes_nothing(plant: Plant, proxy: Proxy) -> None:
    """The server has committed, the worker never hears: claims, reports and ends, one after the other."""
    plant.start_worker(through(proxy, plant.settings))
    job = plant.submit(steps=60)
    for lost in range(1, 5):
        proxy.drop_reply_to = b"COMMIT"
        eventually(lambda: proxy.dropped == lost, what="a lost answer")  # noqa: B023
        time.sleep(0.5)
    plant.check(job, steps=60)


def test_a_worker_that_is_cut_off_publishes_nothing_when_it_comes_back(plant: Plant, proxy: Proxy) -> None:
    plant.start_worker(through(proxy, plant.settings), FAULT_STEP_SECONDS="0.2")
    job = plant.submit(steps=25)
    plant.await_step(job, 3)
    child = plant.children()
    cut = time.monotonic()
    proxy.flowing.clear()
    eventually(lambda: not set(child) & set(plant.children()), seconds=10, what="the end of the cut-off child")
    assert time.monotonic() - cut < plant.settings.lease_seconds + 1.5
    plant.start_worker()
    eventually(lambda: len(plant.stage(job).attempts) == 2, what="the second attempt")
    time.sleep(max(0.0, cut + 3 * plant.settings.lease_seconds - time.monotonic()))
    proxy.flowing.set()
    plant.check(job, steps=25)
    assert [attempt.status for attempt in plant.stage(job).attempts] == ["failed", "succeeded"]


def test_a_job_whose_api_died_right_after_the_commit_is_started(plant: Plant) -> None:
    program = (
        "import os; from helpers import spec; from regraft.jobstore import Jobs, make_engine;"
        "from regraft.settings import Settings;"
        "print(Jobs(make_engine(Settings())).create(spec(training={'max_steps': 5, 'batch_size': 8})).id, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    environment = {"REGRAFT_DATABASE_URL": plant.settings.database_url, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    job = done.stdout.strip()
    with plant.engine.connect() as connection:
        sent = text("SELECT count(*) = 0 FROM outbox WHERE stage_id LIKE :job")
        eventually(lambda: connection.scalar(sent, {"job": f"{job}%"}), seconds=5, what="the hints being sent")
    plant.start_worker()
    plant.check(job, steps=5)


def test_a_job_of_another_version_fails_with_its_reason_and_does_not_go_round(plant: Plant) -> None:
    plant.start_worker()
    with plant.engine.begin() as connection:
        job = plant.submit()
        changed = text("UPDATE jobs SET spec = jsonb_set(spec, '{training,of_tomorrow}', '1') WHERE id = :job")
        connection.execute(changed, {"job": job})
    ended = plant.await_end(job)
    assert (ended.status, ended.reason, ended.reason_class) == ("failed", "spec_unreadable", "control_plane")
    assert "of_tomorrow" in str(ended.message)
