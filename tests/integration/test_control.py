"""Pausing, resuming, trying again and labelling, in the store and over the real database."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from helpers import spec
from regraft.errors import ConflictError, NotFoundError
from regraft.jobs import JobStatus
from regraft.jobstore import Claim, Control, Jobs, Leases, Outcome, Report, VersionError, Wanted
from regraft.models import Job
from regraft.settings import Settings
from regraft.specs import TargetSpec


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine)


@pytest.fixture
def control(engine: Engine) -> Control:
    return Control(engine)


def claimed(leases: Leases, job: Job, stage: str) -> Claim:
    claim = leases.claim(f"{job.id}.{stage}", worker="w")
    assert claim is not None
    return claim


def statuses(jobs: Jobs, job: Job) -> dict[str, str]:
    return {stage.name: stage.status for stage in jobs.get(job.id).stages}


def test_a_queued_job_pauses_at_once_and_nothing_of_it_can_be_claimed(
    jobs: Jobs, control: Control, leases: Leases
) -> None:
    job = jobs.create(spec())
    control.pause(job.id)
    control.pause(job.id)
    assert jobs.get(job.id).status == JobStatus.PAUSED
    assert set(statuses(jobs, job).values()) == {"pending"}
    assert leases.claim(f"{job.id}.prepare", worker="w") is None
    control.resume(job.id)
    assert statuses(jobs, job)["prepare"] == "ready"
    claimed(leases, job, "prepare")
    assert jobs.get(job.id).status == JobStatus.RUNNING


def test_a_running_job_is_paused_once_its_stages_have_saved(jobs: Jobs, control: Control, leases: Leases) -> None:
    job = jobs.create(spec())
    one, other = claimed(leases, job, "prepare"), claimed(leases, job, "convert")
    control.pause(job.id)
    assert (jobs.get(job.id).status, leases.wanted(one)) == (JobStatus.PAUSING, Wanted.PAUSE)
    with pytest.raises(ConflictError, match="still saving"):
        control.resume(job.id)
    leases.finish(one, Outcome(status="released", reason="paused"))
    assert jobs.get(job.id).status == JobStatus.PAUSING
    leases.finish(other, Outcome(status="succeeded", result={"uri": "x"}))
    assert jobs.get(job.id).status == JobStatus.PAUSED
    assert statuses(jobs, job) | {"train": "pending"} == statuses(jobs, job)
    control.resume(job.id)
    again = claimed(leases, job, "prepare")
    assert again.epoch == one.epoch + 1
    assert jobs.get(job.id).stages[0].failures == 0


def test_a_paused_job_can_be_cancelled_and_tried_again(jobs: Jobs, control: Control, leases: Leases) -> None:
    job = jobs.create(spec())
    control.pause(job.id)
    assert jobs.cancel(job.id).status == JobStatus.CANCELLED
    control.retry(job.id)
    found = jobs.get(job.id)
    assert (found.status, found.reason, found.finished_at) == (JobStatus.QUEUED, None, None)
    claimed(leases, job, "convert")


def test_a_retry_starts_at_the_stage_that_failed(jobs: Jobs, control: Control, leases: Leases) -> None:
    job = jobs.create(spec())
    for name in ("prepare", "convert"):
        leases.finish(claimed(leases, job, name), Outcome(status="succeeded", result={"uri": name}))
    leases.finish(claimed(leases, job, "train"), Outcome(status="failed", reason="x", message="loss is NaN"))
    assert jobs.get(job.id).status == JobStatus.FAILED
    with pytest.raises(ConflictError):
        control.pause(job.id)
    control.retry(job.id)
    assert statuses(jobs, job) == {
        "prepare": "succeeded",
        "convert": "succeeded",
        "train": "ready",
        "evaluate": "pending",
        "export": "pending",
    }
    found = jobs.get(job.id)
    assert (found.status, found.message, found.stages[2].message) == (JobStatus.QUEUED, None, None)
    assert claimed(leases, job, "train").results["convert"] == {"uri": "convert"}  # type: ignore[index]
    with pytest.raises(ConflictError, match="train running"):
        control.retry(job.id)


def test_labels_are_changed_only_if_nobody_else_has(jobs: Jobs, control: Control) -> None:
    job = jobs.create(spec(labels={"team": "a"}))
    control.update(job.id, labels={"team": "b"}, version=1)
    with pytest.raises(VersionError):
        control.update(job.id, labels={"team": "c"}, version=1)
    found = jobs.get(job.id)
    assert (found.labels, found.version, found.spec["labels"]) == ({"team": "b"}, 2, {"team": "a"})


def test_another_projects_job_is_not_there(engine: Engine, jobs: Jobs, leases: Leases, settings: Settings) -> None:
    theirs = Jobs(engine, project="theirs")
    job = theirs.create(spec())
    leases.finish(claimed(leases, job, "prepare"), Outcome(status="succeeded", result={}))
    for call in (jobs.get, jobs.cancel, Control(engine).pause, Control(engine).retry):
        with pytest.raises(NotFoundError):
            call(job.id)
    assert jobs.find(limit=10) == ([], False)
    with engine.connect() as connection:
        for table in ("jobs", "stages", "events", "attempts", "outbox"):
            found = connection.execute(text(f"SELECT DISTINCT project_id FROM {table}")).scalars().all()
            assert found == ["theirs"], table


def test_a_paused_job_goes_on_on_another_target(jobs: Jobs, control: Control, leases: Leases) -> None:
    job = jobs.create(spec())
    gpu = TargetSpec(kind="gpu", devices=2)
    with pytest.raises(ConflictError, match="only a paused"):
        control.resume(job.id, target=gpu)
    for name in ("prepare", "convert"):
        leases.finish(claimed(leases, job, name), Outcome(status="succeeded", result={"uri": name}))
    train = claimed(leases, job, "train")
    control.pause(job.id)
    leases.finish(train, Outcome(status="released", reason="paused"))
    control.resume(job.id, target=gpu)
    found = jobs.get(job.id)
    assert (found.spec["target"]["kind"], found.version) == ("gpu", 2)
    assert {stage.name: stage.queue for stage in found.stages} == {
        "prepare": "prepare",
        "convert": "convert",
        "train": "train.gpu",
        "evaluate": "evaluate.gpu",
        "export": "export",
    }
    assert leases.ready(["train.cpu"]) == []
    assert claimed(leases, job, "train").spec.target == gpu
    (moved,) = (
        event for event in jobs.events(job.id, after=0, limit=100)[0] if "moves from cpu to gpu" in event.message
    )
    assert moved.data["to"]["devices"] == 2


def test_a_condition_lasts_as_long_as_its_attempt(jobs: Jobs, control: Control, leases: Leases) -> None:
    job = jobs.create(spec())
    claim = claimed(leases, job, "prepare")
    waiting = {"reason": "waiting_for_appliance", "message": "wsjob-1 waits, 3 of 7"}
    leases.report(claim, Report(condition=waiting))
    leases.report(claim, Report(condition={**waiting, "message": "wsjob-1 waits, 2 of 7"}))
    stage = jobs.get(job.id).stages[0]
    assert (stage.status, stage.reason, stage.reason_class) == ("running", "waiting_for_appliance", None)
    assert stage.message == "wsjob-1 waits, 2 of 7"
    said = [event for event in jobs.events(job.id, after=0, limit=100)[0] if event.type == "condition"]
    assert [event.message for event in said] == ["prepare: wsjob-1 waits, 3 of 7"]
    control.pause(job.id)
    leases.finish(claim, Outcome(status="released", reason="paused"))
    stage = jobs.get(job.id).stages[0]
    assert (stage.status, stage.reason, stage.message) == ("pending", None, None)
