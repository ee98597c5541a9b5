"""Priorities, limits of projects and maintenance, on a real PostgreSQL."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, text

from helpers import spec
from regraft.errors import LimitError
from regraft.jobs import Priority
from regraft.jobstore import Announcements, Control, Jobs, Leases, Operations, Outcome
from regraft.settings import Settings

QUEUES = ["prepare", "convert", "train.cpu"]
DONE = Outcome(status="succeeded", result={"uri": "file:///x"})


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine)


@pytest.fixture
def leases(engine: Engine, settings: Settings) -> Leases:
    return Leases(engine, settings)


@pytest.fixture
def announcements(engine: Engine, settings: Settings) -> Announcements:
    return Announcements(engine, settings)


def sent(announcements: Announcements) -> list[str]:
    found: list[str] = []
    announcements.send(lambda queue, stage, priority: found.append(stage))
    return found


def test_what_is_urgent_is_announced_and_found_first(jobs: Jobs, leases: Leases, announcements: Announcements) -> None:
    late, usual, urgent = (jobs.create(spec(), priority=p).id for p in (Priority.P3, Priority.P2, Priority.P1))
    expected = [f"{job}.{stage}" for job in (urgent, usual, late) for stage in ("prepare", "convert")]
    assert sent(announcements) == expected
    assert leases.ready(["prepare"]) == [f"{job}.prepare" for job in (urgent, usual, late)]
    assert leases.ready(["train.cpu"]) == []


def test_a_project_at_its_limit_lets_the_next_job_wait(
    jobs: Jobs, leases: Leases, announcements: Announcements, engine: Engine
) -> None:
    Operations(engine).limit("default", max_unfinished=None, max_running=1)
    first, second = jobs.create(spec()), jobs.create(spec())
    urgent = jobs.create(spec(), priority=Priority.P1)
    other = Jobs(engine, project="other").create(spec())
    assert [job.stages[0].status for job in (first, second, urgent, other)] == ["ready", "pending", "pending", "ready"]
    assert announcements.admit() == 0
    jobs.cancel(first.id)
    assert announcements.admit() == 1
    assert [jobs.get(job.id).stages[0].status for job in (second, urgent)] == ["pending", "ready"]
    Operations(engine).limit("default", max_unfinished=None, max_running=None)
    assert announcements.admit() == 1
    assert jobs.get(second.id).stages[0].status == "ready"


def test_a_job_that_was_paused_before_it_began_waits_its_turn_again(jobs: Jobs, engine: Engine) -> None:
    Operations(engine).limit("default", max_unfinished=None, max_running=1)
    control = Control(engine)
    first = jobs.create(spec())
    control.pause(first.id)
    second = jobs.create(spec())
    assert second.stages[0].status == "ready", "the slot is free"
    control.resume(first.id)
    assert [jobs.get(job.id).stages[0].status for job in (first, second)] == ["pending", "ready"]


def test_a_project_with_too_many_jobs_is_refused_another(jobs: Jobs, engine: Engine) -> None:
    Operations(engine).limit("default", max_unfinished=2, max_running=None)
    first, _ = jobs.create(spec()), jobs.create(spec())
    with pytest.raises(LimitError, match="as many unfinished jobs") as refused:
        jobs.create(spec())
    assert (refused.value.reason, refused.value.value) == ("too_many_jobs", 2)
    Jobs(engine, project="other").create(spec())
    jobs.cancel(first.id)
    jobs.create(spec())


def test_limits_hold_however_many_create_at_once(jobs: Jobs, engine: Engine) -> None:
    Operations(engine).limit("default", max_unfinished=5, max_running=2)
    refused: list[LimitError] = []

    def create() -> None:
        try:
            jobs.create(spec())
        except LimitError as error:
            refused.append(error)

    threads = [threading.Thread(target=create) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        counts = connection.execute(text("SELECT count(*), count(admitted_at) FROM jobs")).one()
    assert (*counts, len(refused)) == (5, 2, 7)


def test_in_maintenance_nothing_is_claimed_and_what_runs_goes_on(jobs: Jobs, leases: Leases, engine: Engine) -> None:
    job = jobs.create(spec())
    held = leases.claim(f"{job.id}.prepare", worker="w")
    assert held is not None
    Operations(engine).drain(True, note="disks")
    assert leases.claim(f"{job.id}.convert", worker="w") is None
    leases.renew(held)
    leases.finish(held, DONE)
    noted = Operations(engine).maintenance()
    assert noted is not None
    assert (noted.draining, noted.note) == (True, "disks")
    Operations(engine).drain(False)
    assert leases.claim(f"{job.id}.convert", worker="w") is not None


def test_a_worker_lost_while_its_job_is_cancelled_ends_the_stage(
    jobs: Jobs, leases: Leases, announcements: Announcements, engine: Engine
) -> None:
    job = jobs.create(spec())
    assert leases.claim(f"{job.id}.prepare", worker="w") is not None
    jobs.cancel(job.id)
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET lease_until = now() - interval '1 s' WHERE status = 'running'"))
    assert announcements.reclaim() == 1
    ended = jobs.get(job.id)
    assert (ended.status, ended.stages[0].status) == ("cancelled", "cancelled")
    assert leases.claim(f"{job.id}.prepare", worker="w") is None


def test_an_attempt_that_left_something_durable_starts_the_count_anew(
    jobs: Jobs, leases: Leases, engine: Engine, settings: Settings
) -> None:
    from regraft.jobs import ReasonClass
    from regraft.jobstore import Report

    lost = Outcome(status="failed", reason="killed", reason_class=ReasonClass.INFRASTRUCTURE, message="killed")
    job = jobs.create(spec())
    for epoch in range(1, 2 * settings.max_attempts):
        held = leases.claim(f"{job.id}.prepare", worker="w")
        assert held is not None
        made = {"kind": "checkpoint", "uri": f"file:///{epoch}", "metadata": {}}
        leases.report(held, Report(artifacts=[made]))
        leases.finish(held, lost)
        assert jobs.get(job.id).stages[0].failures == 1
        with engine.begin() as connection:
            connection.execute(text("UPDATE stages SET available_at = now()"))
