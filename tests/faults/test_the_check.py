"""`Plant.check` finds what it is there to find: each of the five invariants is violated here, once."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from plant import Plant
from sqlalchemy import text

from regraft.holdings import FOLDER
from regraft.storage import local_path

STEPS = 10
LONG_ENOUGH = 60.0


def test_every_violation_is_found(plant: Plant) -> None:
    plant.start_worker()
    plant.struck()
    job = plant.submit(steps=STEPS)
    plant.check(job, steps=STEPS, within=LONG_ENOUGH)
    plant.patience = 0.5
    run = local_path(plant.settings.storage_root) / "jobs" / job / "train"
    for violate in (write_late, leave_a_file, leave_a_process, leave_a_note, end_twice, forget_the_end_of_an_attempt):
        mend = violate(plant, job, run)
        with pytest.raises(AssertionError):
            plant.check(job, steps=STEPS, within=LONG_ENOUGH)
        mend()
    plant.check(job, steps=STEPS, within=LONG_ENOUGH)
    with pytest.raises(AssertionError, match="are allowed"):
        plant.check(job, steps=STEPS, within=0.01)
    with pytest.raises(AssertionError):
        plant.check(job, steps=STEPS + 5, within=LONG_ENOUGH)
    plant.struck()
    with pytest.raises(AssertionError, match="are allowed"):
        plant.check(job, steps=STEPS, within=LONG_ENOUGH)  # a fault after the end has hit nobody


def write_late(plant: Plant, job: str, run: Path) -> Callable[[], object]:
    audit = run / "audit"
    before = audit.read_text()
    audit.write_text(f"{before}2 1 10\n1 1 10\n")
    return lambda: audit.write_text(before)


def leave_a_file(plant: Plant, job: str, run: Path) -> Callable[[], object]:
    left = run / ".tmp-step-00000010-1"
    left.mkdir()
    return left.rmdir


def leave_a_process(plant: Plant, job: str, run: Path) -> Callable[[], object]:
    marks = {"REGRAFT_HOME": str(plant.settings.home), "REGRAFT_ATTEMPT": f"{job}.train:1:1:1"}
    orphan = subprocess.Popen(["/bin/sleep", "600"], env=marks)

    def mend() -> None:
        orphan.kill()
        orphan.wait()

    return mend


def leave_a_note(plant: Plant, job: str, run: Path) -> Callable[[], object]:
    """Of an attempt that somebody is still at."""
    note = plant.settings.home / FOLDER / f"{job}.train-1"
    holder = note.open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)

    def mend() -> None:
        note.unlink()
        holder.close()

    return mend


def end_twice(plant: Plant, job: str, run: Path) -> Callable[[], object]:
    again = """
        INSERT INTO events (job_id, project_id, seq, level, type, message, data)
        SELECT job_id, project_id, seq + 1, level, type, message, data FROM events
        WHERE job_id = :job ORDER BY seq DESC LIMIT 1
    """
    execute(plant, again, job=job)
    return lambda: execute(
        plant, "DELETE FROM events WHERE job_id = :job AND seq = (SELECT max(seq) FROM events)", job=job
    )


def forget_the_end_of_an_attempt(plant: Plant, job: str, run: Path) -> Callable[[], object]:
    stage = f"{job}.train"
    execute(plant, "UPDATE attempts SET finished_at = NULL WHERE stage_id = :stage", stage=stage)
    return lambda: execute(plant, "UPDATE attempts SET finished_at = now() WHERE stage_id = :stage", stage=stage)


def execute(plant: Plant, statement: str, **parameters: str) -> None:
    with plant.engine.begin() as connection:
        connection.execute(text(statement), parameters)
