"""Workers that are replaced while they work, by the same version and by another one: cases 32, 33, 34."""

from __future__ import annotations

import subprocess
import time

from bounds import WITHIN
from fault_stage import SAVED_EVERY
from plant import Plant
from proxy import Proxy, through
from sqlalchemy import text

GRACE_SECONDS = 10
RUNNING = text("SELECT count(*) FROM stages WHERE status = 'running'")


def test_a_deployment_that_replaces_every_worker_loses_nothing_that_was_saved(plant: Plant) -> None:
    """Each has its grace. One stage hears nothing, is killed in time, and goes on from its last checkpoint."""
    brief = plant.settings.model_copy(update={"stop_seconds": 2.0})
    deaf = plant.start_worker(brief, FAULT_ACT="deaf@1", FAULT_HOLD="12")
    workers = [deaf, plant.start_worker(brief, FAULT_HOLD="12")]
    jobs = [plant.submit() for _ in workers]
    for job in jobs:
        plant.await_step(job, 12)
    for worker in workers:
        worker.terminate()
    assert [worker.wait(GRACE_SECONDS) for worker in workers] == [0, 0]
    assert plant.children() == []
    for job in jobs:
        (attempt,) = plant.stage(job).attempts
        assert attempt.status == "released"
        lost = (plant.stage(job).progress or {})["step"] - last_saved(plant, job)
        assert 0 <= lost <= (SAVED_EVERY if attempt.worker.endswith(f"-{deaf.pid}") else 0)
    plant.struck()
    for _ in workers:
        plant.start_worker()
    plant.check(*jobs, within=WITHIN[32])


def last_saved(plant: Plant, job: str) -> int:
    points, _ = plant.jobs.artifacts(job, kinds=["checkpoint"], after=None, limit=99)
    return max(point.detail["step"] for point in points)


def test_a_worker_that_is_told_to_leave_twice_hands_its_stage_back(plant: Plant) -> None:
    worker = plant.start_worker(FAULT_HOLD="5")
    job = plant.submit()
    plant.await_step(job, 5)
    plant.struck()
    worker.terminate()
    time.sleep(0.3)
    worker.terminate()
    worker.wait(GRACE_SECONDS)
    assert (plant.stage(job).status, plant.children()) == ("ready", [])
    plant.start_worker()
    plant.check(job, within=WITHIN[33])


def test_a_worker_that_is_told_to_leave_in_the_middle_of_a_commit_leaves_nothing_running(
    plant: Plant, proxy: Proxy
) -> None:
    """The server has committed a claim, a checkpoint, an end; SIGTERM comes before its answer does."""
    job = plant.submit(steps=60)
    for words in (b"INSERT INTO attempts", b"INSERT INTO artifacts", b"UPDATE attempts"):
        worker = plant.start_worker(through(proxy, plant.settings), FAULT_STEP_SECONDS="0.05")
        proxy.at_commit_of = words, lambda: tell(worker)  # noqa: B023
        assert worker.wait(30) == 0
        with plant.engine.connect() as connection:
            assert connection.scalar(RUNNING) == 0
    plant.struck()
    plant.start_worker()
    plant.check(job, steps=60, within=WITHIN[33])


def tell(worker: subprocess.Popen[bytes]) -> None:
    """And let it act on it before the answer comes."""
    worker.terminate()
    time.sleep(0.3)


def test_a_job_that_the_next_version_cannot_read_fails_with_its_reason(plant: Plant) -> None:
    """It was running: what it had saved is kept."""
    worker = plant.start_worker(FAULT_HOLD="12")
    job = plant.submit()
    plant.await_step(job, 12)
    worker.terminate()
    assert worker.wait(GRACE_SECONDS) == 0
    with plant.engine.begin() as connection:
        changed = text("UPDATE jobs SET spec = jsonb_set(spec, '{training,of_tomorrow}', '1') WHERE id = :job")
        connection.execute(changed, {"job": job})
    plant.struck()
    plant.start_worker()
    ended = plant.await_end(job)
    plant.check(job, status="failed", within=WITHIN[34])
    assert (ended.reason, ended.reason_class) == ("spec_unreadable", "control_plane")
    assert "of_tomorrow" in str(ended.message)
    reasons = [attempt.reason for attempt in plant.stage(job).attempts]
    assert reasons == ["worker_drained"] + ["spec_unreadable"] * plant.settings.max_attempts
    assert last_saved(plant, job) >= 10
