"""Processes that are killed, stopped, doubled and hung: cases 1, 2, 3, 26, 27, 29, 32, 33, 35, 36 of the catalogue."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

from plant import Plant, hold_for, kill

from helpers import eventually
from regraft.jobstore import Leases


def test_a_killed_stage_process_goes_on_from_its_checkpoint(plant: Plant) -> None:
    plant.start_worker()
    job = plant.submit()
    plant.await_step(job, 12)
    kill(plant.children()[0])
    plant.check(job)
    first, second = plant.stage(job).attempts
    assert (first.status, first.reason, first.signal) == ("failed", "killed", 9)
    assert second.status == "succeeded"


def test_a_killed_worker_is_replaced_within_a_lease_and_a_sweep(plant: Plant) -> None:
    """First the worker alone, then worker and stage process."""
    job = plant.submit()
    worker = plant.start_worker(FAULT_STEP_SECONDS="0.1")
    for count, with_child in enumerate([False, True], start=1):
        plant.await_step(job, 6 * count)
        killed = time.monotonic()
        for pid in [worker.pid, *(plant.children() if with_child else [])]:
            kill(pid)
        eventually(lambda: not plant.children(), seconds=5, what="the child's death")
        worker = plant.start_worker(FAULT_STEP_SECONDS="0.1")
        eventually(lambda: len(plant.stage(job).attempts) == count + 1, what="the next attempt")  # noqa: B023
        assert time.monotonic() - killed < plant.settings.lease_seconds + 12
    plant.check(job)
    assert [attempt.reason for attempt in plant.stage(job).attempts] == ["worker_lost", "worker_lost", None]


def test_what_a_stage_started_elsewhere_is_ended_with_it_or_by_the_next_worker(plant: Plant) -> None:
    """A launcher's children have sessions of their own; killing the process group does not reach them."""
    worker = plant.start_worker(FAULT_ACT="launcher", FAULT_STEP_SECONDS="0.2")
    job = plant.submit(steps=10)
    plant.await_step(job, 1)
    assert len(plant.children()) == 2
    kill(worker.pid)
    eventually(lambda: len(plant.children()) == 1, seconds=5, what="the stage process's death")
    plant.start_worker(FAULT_ACT="launcher")
    plant.check(job, steps=10)


def test_a_stopped_worker_is_fenced_and_its_child_ends_by_itself(plant: Plant) -> None:
    """SIGSTOP for three leases: the child, which was not stopped, must not write beside its successor."""
    worker = plant.start_worker(FAULT_STEP_SECONDS="0.2")
    job = plant.submit(steps=25)
    plant.await_step(job, 3)
    child = plant.children()[0]
    second: list[object] = []

    def meanwhile() -> None:
        eventually(lambda: not Path(f"/proc/{child}/exe").exists(), seconds=5, what="the child's own end")
        second.append(plant.start_worker())
        eventually(lambda: len(plant.stage(job).attempts) == 2, what="the second attempt")

    hold_for(3 * plant.settings.lease_seconds, worker.pid, what=meanwhile)
    plant.check(job, steps=25)
    assert [attempt.status for attempt in plant.stage(job).attempts] == ["failed", "succeeded"]


def test_a_wrong_clock_costs_no_lease(plant: Plant) -> None:
    """One worker a day ahead, one a day behind, and stages that pass from one to the other."""
    for offset in ("86400", "-86400"):
        plant.start_worker(FAULT_CLOCK=offset, FAULT_STEP_SECONDS="0.1")
    jobs = [plant.submit() for _ in range(2)]
    plant.check(*jobs)
    for job in jobs:
        assert len(plant.stage(job).attempts) == 1
        events, _ = plant.jobs.events(job, after=0, limit=200)
        assert all(events[0].created_at <= event.created_at for event in events)


def test_a_worker_that_is_told_to_leave_once_or_twice_loses_no_step(plant: Plant) -> None:
    worker = plant.start_worker()
    job = plant.submit(steps=120)
    plant.await_step(job, 12)
    worker.terminate()
    assert worker.wait(20) == 0
    assert plant.children() == []
    first = plant.stage(job).attempts[0]
    done = (plant.stage(job).progress or {})["step"]
    saved = max(
        point.detail["step"] for point in plant.jobs.artifacts(job, kinds=["checkpoint"], after=None, limit=99)[0]
    )
    assert (first.status, saved) == ("released", done)
    worker = plant.start_worker(FAULT_STEP_SECONDS="0.05")
    plant.await_step(job, done + 5)
    worker.terminate()
    time.sleep(0.3)
    worker.terminate()
    worker.wait(20)
    assert (plant.stage(job).status, plant.children()) == ("ready", [])
    plant.start_worker()
    plant.check(job, steps=120)


def test_one_trainer_whatever_the_messages_say(plant: Plant) -> None:
    """A second one by hand is refused, a hundred messages start one, and one for a cancelled job starts none."""
    cancelled = plant.submit()
    plant.jobs.cancel(cancelled)
    plant.start_worker()
    plant.start_worker()
    plant.broker.publish("train.cpu", f"{cancelled}.train")
    eventually(lambda: plant.broker.is_empty("train.cpu"), what="the late message being taken")
    job = plant.submit()
    plant.await_step(job, 2)
    assert Leases(plant.engine, plant.settings).claim(f"{job}.train", worker="by hand") is None
    for _ in range(100):
        plant.broker.publish("train.cpu", f"{job}.train")
    plant.check(job)
    assert len(plant.stage(job).attempts) == 1
    assert [stage.attempts for stage in plant.jobs.get(cancelled).stages] == [[]] * 5


def test_a_hung_stage_process_is_killed_for_want_of_progress_not_of_heartbeats(plant: Plant) -> None:
    plant.start_worker(FAULT_ACT="hang@1")
    job = plant.submit()
    plant.check(job)
    first = plant.stage(job).attempts[0]
    assert (first.reason, first.reason_class) == ("no_progress", "infrastructure")


def test_too_little_memory_is_met_once_more_with_half_the_batch_and_then_no_more(plant: Plant) -> None:
    """Said by Python's MemoryError the first time, by CUDA's words the second."""
    plant.start_worker(FAULT_ACT="memory@1,cuda@2")
    job = plant.await_end(plant.submit())
    train = plant.stage(job.id)
    assert (job.status, job.reason, job.reason_class) == ("failed", "out_of_memory", "capacity")
    assert [attempt.reason for attempt in train.attempts] == ["out_of_memory"] * 2
    assert train.override == {"micro_batch_size": 4}


def test_a_stage_that_gets_nowhere_is_given_up(plant: Plant) -> None:
    plant.start_worker(FAULT_ACT="killed")
    job = plant.await_end(plant.submit())
    assert (job.status, job.reason) == ("failed", "killed")
    assert "got nowhere" in str(job.message)
    assert len(plant.stage(job.id).attempts) == plant.settings.max_attempts


def test_a_flood_of_output_neither_stops_the_stage_nor_fills_the_disk(plant: Plant) -> None:
    secret = str(urlsplit(plant.settings.redis_url).password)
    settings = plant.settings.model_copy(update={"log_bytes": 1 << 20})
    plant.start_worker(settings, FAULT_ACT="flood@1", FAULT_SECRET=secret)
    job = plant.submit(steps=10)
    plant.check(job, steps=10)
    parts = sorted((plant.settings.log_folder / job).glob("train-1.log*"))
    assert len(parts) == 5
    assert sum(part.stat().st_size for part in parts) < 6 << 20
    assert not any(secret.encode() in part.read_bytes() for part in parts)
