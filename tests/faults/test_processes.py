"""Processes that are killed, stopped, doubled and hung: cases 1, 2, 3, 21, 22, 26, 29, 35, 36 of the catalogue."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bounds import WITHIN, after_a_failure, after_a_silence
from plant import Plant, hold_for, kill

from helpers import eventually
from regraft.jobstore import Leases


def test_a_killed_stage_process_goes_on_from_its_checkpoint(plant: Plant) -> None:
    plant.start_worker(FAULT_HOLD="12")
    job = plant.submit()
    plant.await_step(job, 12)
    plant.struck()
    kill(plant.children()[0])
    plant.went_on(job, attempt=2, within=after_a_failure(plant.settings))
    plant.check(job, within=WITHIN[1])
    first, second = plant.stage(job).attempts
    assert (first.status, first.reason, first.signal) == ("failed", "killed", 9)
    assert second.status == "succeeded"


def test_a_killed_worker_is_replaced_within_a_lease_and_a_sweep(plant: Plant) -> None:
    """First the worker alone, beside another of its machine, which knows it at once; then worker and stage process,
    and who is left is on another machine."""
    for _ in range(2):
        plant.start_worker(FAULT_HOLD="6,12")
    job = plant.submit()
    plant.await_step(job, 2)
    plant.await_worker(plant.start_worker(plant.elsewhere(), FAULT_HOLD="6,12"))
    bounds = [after_a_failure(plant.settings), after_a_silence(plant.settings)]
    for count, within in enumerate(bounds, start=1):
        plant.await_step(job, 6 * count)
        worker = worker_of(plant, job)
        plant.struck()
        for pid in [worker.pid, *(plant.children() if count == 2 else [])]:
            kill(pid)
        worker.wait()
        plant.went_on(job, attempt=count + 1, within=within)
    plant.check(job, within=WITHIN[2])
    first, second, third = plant.stage(job).attempts
    assert [attempt.reason for attempt in (first, second, third)] == ["worker_lost", "worker_lost", None]
    assert "was killed" in str(first.message)
    assert "since its lease ran out" in str(second.message)


def worker_of(plant: Plant, job: str) -> subprocess.Popen[bytes]:
    """The one that trains."""
    name = plant.stage(job).worker or ""
    return next(worker for worker in plant.workers if name.endswith(f"-{worker.pid}"))


def test_what_a_stage_started_elsewhere_is_ended_with_it_or_by_the_next_worker(plant: Plant) -> None:
    """A launcher's children have sessions of their own; killing the process group does not reach them."""
    worker = plant.start_worker(FAULT_ACT="launcher", FAULT_HOLD="1")
    job = plant.submit(steps=10)
    plant.await_step(job, 1)
    assert len(plant.children()) == 2
    plant.struck()
    kill(worker.pid)
    eventually(lambda: len(plant.children()) == 1, seconds=5, what="the stage process's death")
    plant.start_worker(FAULT_ACT="launcher")
    plant.check(job, steps=10, within=WITHIN[3])


def test_a_stopped_worker_is_fenced_and_its_child_ends_by_itself(plant: Plant) -> None:
    """SIGSTOP for three leases: the child, which was not stopped, must not write beside its successor."""
    hasty = plant.settings.model_copy(update={"lease_seconds": 2.0})
    worker = plant.start_worker(hasty, FAULT_STEP_SECONDS="0.2")
    job = plant.submit(steps=25)
    plant.await_step(job, 3)
    child = plant.children()[0]

    def meanwhile() -> None:
        plant.start_worker()
        eventually(lambda: not Path(f"/proc/{child}/exe").exists(), seconds=5, what="the child's own end")
        eventually(lambda: len(plant.stage(job).attempts) == 2, what="the second attempt")

    plant.struck()
    hold_for(3 * hasty.lease_seconds, worker.pid, what=meanwhile)
    plant.check(job, steps=25, within=WITHIN[26])
    assert [attempt.status for attempt in plant.stage(job).attempts] == ["failed", "succeeded"]


def test_one_trainer_whatever_the_messages_say(plant: Plant) -> None:
    """A second one by hand is refused, a hundred messages start one, and one for a cancelled job starts none."""
    cancelled = plant.submit()
    plant.struck()
    plant.jobs.cancel(cancelled)
    plant.start_worker()
    plant.start_worker()
    plant.broker.publish("train.cpu", f"{cancelled}.train")
    eventually(lambda: plant.broker.is_empty("train.cpu"), what="the late message being taken")
    plant.check(cancelled, status="cancelled", within=WITHIN[22])
    job = plant.submit(steps=80)
    plant.await_step(job, 2)
    assert Leases(plant.engine, plant.settings).claim(f"{job}.train", worker="by hand") is None
    plant.struck()
    for _ in range(100):
        plant.broker.publish("train.cpu", f"{job}.train")
    plant.check(job, steps=80, within=min(WITHIN[21], WITHIN[35]))
    assert len(plant.stage(job).attempts) == 1
    assert [stage.attempts for stage in plant.jobs.get(cancelled).stages] == [[]] * 5


def test_a_hung_stage_process_is_killed_for_want_of_progress_not_of_heartbeats(plant: Plant) -> None:
    hasty = plant.settings.model_copy(update={"hang_seconds": 3.0})
    plant.start_worker(hasty, FAULT_ACT="hang@1")
    job = plant.submit()
    eventually(lambda: plant.stage(job).status == "running", what="the stage that will hang")
    plant.struck()
    plant.check(job, within=WITHIN[36])
    first = plant.stage(job).attempts[0]
    assert (first.reason, first.reason_class) == ("no_progress", "infrastructure")


def test_too_little_memory_is_met_once_more_with_half_the_batch_and_then_no_more(plant: Plant) -> None:
    """Said by Python's MemoryError the first time, by CUDA's words the second."""
    plant.start_worker(FAULT_ACT="memory@1,cuda@2")
    plant.struck()
    job = plant.await_end(plant.submit())
    plant.check(job.id, status="failed", within=WITHIN[29])
    train = plant.stage(job.id)
    assert (job.reason, job.reason_class) == ("out_of_memory", "capacity")
    assert [attempt.reason for attempt in train.attempts] == ["out_of_memory"] * 2
    assert train.override == {"micro_batch_size": 4}


def test_a_stage_that_gets_nowhere_is_given_up(plant: Plant) -> None:
    plant.start_worker(FAULT_ACT="killed")
    plant.struck()
    job = plant.await_end(plant.submit())
    plant.check(job.id, status="failed", within=WITHIN[1])
    assert job.reason == "killed"
    assert "got nowhere" in str(job.message)
    assert len(plant.stage(job.id).attempts) == plant.settings.max_attempts
