"""A broker that is flushed, restarted, silent or full: cases 17 to 20, and what `celery inspect` says then."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import redis
from bounds import WITHIN, after_a_silence
from plant import Own, Plant, kill
from sqlalchemy import text

from helpers import eventually
from regraft.jobs import Priority
from regraft.jobstore import Operations
from regraft.queue import make_celery


def test_a_flushed_broker_loses_nothing(own: Own, own_plant: Plant) -> None:
    jobs = [own_plant.submit(steps=5) for _ in range(2)]
    with redis.Redis.from_url(own.valkey.url) as broker:
        eventually(lambda: broker.keys("prepare*"), what="the hints")
        broker.flushall()
    own_plant.struck()
    own_plant.start_worker()
    own_plant.check(*jobs, steps=5, within=WITHIN[17])


def test_a_worker_without_a_broker_keeps_its_work_finds_more_and_can_be_inspected_after(
    own: Own, own_plant: Plant
) -> None:
    plant = own_plant
    worker = plant.start_worker(plant.patient(), FAULT_STEP_SECONDS="0.1")
    first = plant.submit(steps=20)
    plant.await_step(first, 2)
    own.valkey.stop()
    plant.struck()
    shutil.rmtree(own.valkey.data)  # as without an append-only file
    second = plant.submit(steps=1000)
    plant.await_step(second, 1)  # found in the database, after the first had gone on undisturbed
    assert plant.stage(first).status == "succeeded"
    own.valkey.start()

    def active() -> str:
        return str(make_celery(plant.settings).control.inspect(timeout=1).active())

    eventually(lambda: f"{second}.train" in active(), seconds=30, what="the worker answering again")
    plant.jobs.cancel(second)
    assert plant.await_end(second).status == "cancelled"
    plant.check(first, steps=20, within=WITHIN[18])
    plant.check(second, status="cancelled", within=WITHIN[18])
    assert worker.poll() is None
    assert [len(plant.stage(job).attempts) for job in (first, second)] == [1, 1]


def test_a_worker_starts_without_a_broker_and_leaves_when_told(own: Own, own_plant: Plant) -> None:
    own.valkey.stop()
    own_plant.struck()
    try:
        worker = own_plant.start_worker()
        job = own_plant.submit(steps=10)
        own_plant.check(job, steps=10, within=WITHIN[18])
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        own.valkey.start()


def test_a_worker_killed_while_the_broker_is_away_is_replaced_from_another_machine(own: Own, own_plant: Plant) -> None:
    """Hints wait that nobody takes: leases are looked after all the same."""
    plant = own_plant
    worker = plant.start_worker(FAULT_HOLD="3")  # it has not ended before the other worker has begun
    job = plant.submit(steps=30)
    plant.await_step(job, 3)
    own.valkey.stop()
    try:
        plant.await_worker(plant.start_worker(plant.elsewhere()))
        plant.jobs.cancel(plant.submit())  # its hints stay in the outbox, and keep nobody busy
        plant.struck()
        kill(worker.pid)
        worker.wait()
        plant.went_on(job, attempt=2, within=after_a_silence(plant.settings))
        plant.check(job, steps=30, within=WITHIN[18])
        with plant.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM outbox")), "there was nothing to send"
    finally:
        own.valkey.start()
    assert "since its lease ran out" in str(plant.stage(job).attempts[0].message)


def test_a_silent_broker_delays_and_nothing_more(own: Own, own_plant: Plant) -> None:
    own_plant.start_worker(own_plant.patient(), FAULT_STEP_SECONDS="0.1")
    first = own_plant.submit(steps=20)
    own_plant.await_step(first, 2)
    with silent(own):
        own_plant.struck()
        second = own_plant.submit(steps=10)
        own_plant.check(first, steps=20, within=WITHIN[19])
        own_plant.check(second, steps=10, within=WITHIN[19])
    assert [len(own_plant.stage(job).attempts) for job in (first, second)] == [1, 1]


@contextmanager
def silent(own: Own) -> Iterator[None]:
    """What is sent to the broker is lost and nobody says so; where that needs more rights, it is stopped, not ended."""
    assert own.valkey.process is not None
    rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(urlsplit(own.valkey.url).port), "-j", "DROP"]
    if dropping := os.geteuid() == 0 and shutil.which("iptables") is not None and iptables("-I", *rule):
        with pytest.raises(redis.TimeoutError):
            redis.Redis.from_url(own.valkey.url, socket_connect_timeout=0.5).ping()
    else:
        own.valkey.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if dropping:
            iptables("-D", *rule)
        else:
            own.valkey.process.send_signal(signal.SIGCONT)


def iptables(*command: str) -> bool:
    return subprocess.run(["iptables", *command], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_a_broker_at_its_memory_limit_delays_and_nothing_more(own: Own, own_plant: Plant, policy: str) -> None:
    """It refuses what a consumer writes when it takes a message, and what it writes when it starts."""
    plant = own_plant
    running = plant.start_worker(plant.patient(), FAULT_STEP_SECONDS="0.1", FAULT_HOLD="2")
    first = plant.submit(steps=20)
    plant.await_step(first, 2)
    with redis.Redis.from_url(own.valkey.url) as broker:
        second = plant.submit(steps=5)
        eventually(lambda: broker.keys("prepare*"), what="the hints")
        broker.config_set("maxmemory-policy", policy)
        broker.config_set("maxmemory", 1)
        try:
            plant.struck()
            starting = plant.start_worker()
            third = plant.submit(steps=5)
            plant.let_on(first, second, third)
            plant.check(first, steps=20, within=WITHIN[20])
            plant.check(second, third, steps=5, within=WITHIN[20])
            log = plant.settings.home / "worker-1.log"
            eventually(lambda: "used memory > 'maxmemory'" in log.read_text(), what="the refusal")
        finally:
            broker.config_set("maxmemory", 0)
            broker.config_set("maxmemory-policy", "noeviction")
    inspect = make_celery(plant.settings).control.inspect(timeout=1)
    eventually(lambda: len(inspect.active() or {}) == 2, what="both workers answering")
    assert (running.poll(), starting.poll()) == (None, None)


def test_maintenance_starts_nothing_and_stops_nothing(plant: Plant) -> None:
    plant.start_worker(FAULT_HOLD="2")
    running = plant.submit(steps=20)
    plant.await_step(running, 2)
    Operations(plant.engine).drain(True, note="new disks")
    waiting = plant.submit(steps=5, priority=Priority.P1)
    plant.let_on(running, waiting)
    eventually(lambda: plant.stage(running).status == "succeeded", what="the running stage's end")
    assert plant.stage(waiting, "prepare").status == "ready"
    assert plant.stage(running, "evaluate").status == "ready"
    Operations(plant.engine).drain(False)
    plant.struck()
    plant.check(running, steps=20, within=WITHIN[17])
    plant.check(waiting, steps=5, within=WITHIN[17])
