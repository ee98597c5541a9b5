"""The store on a real PostgreSQL: claims, fences, retries, cancellation, history."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from helpers import eventually, spec
from regraft.errors import ConflictError, FencedError, InvalidInputError, NotFoundError
from regraft.jobs import ReasonClass, StageName
from regraft.jobstore import Announcements, Claim, Jobs, Leases, Outcome, Report, Wanted, Workers, make_engine
from regraft.models import Job, Stage
from regraft.settings import Settings

DONE = {
    "prepare": {"uri": "file:///d", "address": "d"},
    "convert": {"uri": "file:///c"},
    "train": {"uri": "file:///t", "step": 5, "tokens_seen": 50},
    "evaluate": {"uri": "file:///e", "scores": {}},
    "export": {"artifacts": {}},
}
LOST = Outcome(status="failed", reason="killed", reason_class=ReasonClass.INFRASTRUCTURE, message="it was killed")
WRONG = Outcome(status="failed", reason="corpus_empty", reason_class=ReasonClass.DATA_ERROR, message="no text")


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine)


@pytest.fixture
def announcements(engine: Engine, settings: Settings) -> Announcements:
    return Announcements(engine, settings)


def stage_of(job: Job, name: str) -> Stage:
    return next(stage for stage in job.stages if stage.name == name)


def claim(leases: Leases, job: Job, name: str, *, worker: str = "w1") -> Claim:
    found = leases.claim(f"{job.id}.{name}", worker=worker)
    assert found is not None
    return found


def finish(leases: Leases, job: Job, *names: str) -> None:
    for name in names:
        leases.finish(claim(leases, job, name), Outcome(status="succeeded", result=DONE[name]))


def make_available(engine: Engine) -> None:
    """Let the wait before a retry be over."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET available_at = now()"))
        connection.execute(text("UPDATE outbox SET available_at = now()"))


def let_leases_expire(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET lease_until = now() - interval '1 second' WHERE status = 'running'"))


def sent(announcements: Announcements) -> list[tuple[str, str]]:
    messages: list[tuple[str, str]] = []
    announcements.send(lambda queue, stage, priority: messages.append((queue, stage)))
    return messages


def messages_of(jobs: Jobs, job: Job) -> list[str]:
    return [event.message for event in jobs.events(job.id, after=0, limit=100)[0]]


def test_a_new_job_has_its_stages_and_announces_the_first_two(jobs: Jobs, announcements: Announcements) -> None:
    job = jobs.create(spec())
    assert [stage.status for stage in job.stages] == ["ready", "ready", "pending", "pending", "pending"]
    assert sent(announcements) == [("prepare", f"{job.id}.prepare"), ("convert", f"{job.id}.convert")]
    assert sent(announcements) == []


def test_a_job_runs_through_its_stages_to_the_end(jobs: Jobs, leases: Leases, announcements: Announcements) -> None:
    job = jobs.create(spec())
    finish(leases, job, "prepare")
    assert jobs.get(job.id).status == "running"
    assert leases.claim(f"{job.id}.train", worker="w1") is None
    finish(leases, job, "convert", "train", "evaluate", "export")
    ended = jobs.get(job.id)
    assert ended.status == "succeeded"
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert [queue for queue, _ in sent(announcements)] == ["prepare", "convert", "train.cpu", "evaluate.cpu", "export"]


def test_a_claim_brings_what_earlier_stages_handed_back(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    finish(leases, job, "prepare", "convert")
    assert dict(claim(leases, job, "train").results) == {
        StageName.PREPARE: DONE["prepare"],
        StageName.CONVERT: DONE["convert"],
    }


def test_of_many_claims_at_once_one_wins(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    found: list[Claim | None] = []
    start = threading.Barrier(8)

    def take(name: str) -> None:
        start.wait()
        found.append(leases.claim(f"{job.id}.prepare", worker=name))

    threads = [threading.Thread(target=take, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in found if one is not None]) == 1
    assert len(stage_of(jobs.get(job.id), "prepare").attempts) == 1


def test_a_doubled_late_or_foreign_message_claims_nothing(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    finish(leases, job, "prepare")
    assert leases.claim(f"{job.id}.prepare", worker="w2") is None
    assert leases.claim("job-of-nobody.train", worker="w2") is None


def test_a_lost_lease_is_fenced_from_every_write(
    jobs: Jobs, leases: Leases, announcements: Announcements, engine: Engine
) -> None:
    job = jobs.create(spec())
    old = claim(leases, job, "prepare")
    let_leases_expire(engine)
    assert announcements.reclaim() == 1
    make_available(engine)
    new = claim(leases, job, "prepare", worker="w2")
    assert new.epoch == old.epoch + 1
    before = messages_of(jobs, job)
    for write in (
        lambda: leases.renew(old),
        lambda: leases.report(old, Report(events=[{"message": "stale", "level": "info", "data": None}])),
        lambda: leases.finish(old, Outcome(status="succeeded", result=DONE["prepare"])),
    ):
        with pytest.raises(FencedError):
            write()
    assert messages_of(jobs, job) == before
    leases.renew(new)


def test_a_lease_that_is_renewed_is_not_reclaimed(jobs: Jobs, leases: Leases, announcements: Announcements) -> None:
    held = claim(leases, jobs.create(spec()), "prepare")
    leases.renew(held)
    assert announcements.reclaim() == 0


def test_a_lost_worker_costs_an_attempt_and_then_the_stage(
    jobs: Jobs, leases: Leases, announcements: Announcements, engine: Engine, settings: Settings
) -> None:
    job = jobs.create(spec())
    for _ in range(settings.max_attempts):
        claim(leases, job, "prepare")
        let_leases_expire(engine)
        announcements.reclaim()
        make_available(engine)
    ended = jobs.get(job.id)
    assert (ended.status, ended.reason, ended.reason_class) == ("failed", "worker_lost", "infrastructure")
    assert [attempt.status for attempt in stage_of(ended, "prepare").attempts] == ["failed"] * settings.max_attempts


def test_what_a_retry_can_mend_is_retried_after_a_wait(
    jobs: Jobs, leases: Leases, announcements: Announcements, engine: Engine
) -> None:
    job = jobs.create(spec())
    sent(announcements)
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET failures = 1"))  # the second failure waits longer than the first
    leases.finish(claim(leases, job, "prepare"), LOST)
    assert stage_of(jobs.get(job.id), "prepare").status == "ready"
    assert leases.claim(f"{job.id}.prepare", worker="early") is None
    assert sent(announcements) == []
    make_available(engine)
    assert sent(announcements) == [("prepare", f"{job.id}.prepare")]
    finish(leases, job, "prepare")
    assert stage_of(jobs.get(job.id), "prepare").reason is None


def test_what_a_retry_cannot_mend_fails_the_job_with_its_reason(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    other = claim(leases, job, "convert")
    leases.finish(claim(leases, job, "prepare"), WRONG)
    assert jobs.get(job.id).status == "running"
    assert leases.wanted(other) is Wanted.DROP
    leases.finish(other, Outcome(status="cancelled", reason="not_needed"))
    ended = jobs.get(job.id)
    assert (ended.status, ended.reason, ended.reason_class) == ("failed", "corpus_empty", "data_error")
    assert ended.message == "prepare: no text"
    assert [stage.status for stage in ended.stages] == ["failed", "cancelled", "cancelled", "cancelled", "cancelled"]


def test_a_worker_that_leaves_hands_the_stage_back_without_a_failure(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    leases.finish(claim(leases, job, "prepare"), Outcome(status="released"))
    stage = stage_of(jobs.get(job.id), "prepare")
    assert (stage.status, stage.failures) == ("ready", 0)
    claim(leases, job, "prepare")


def test_cancelling_a_queued_job_ends_it_at_once(jobs: Jobs, announcements: Announcements, leases: Leases) -> None:
    job = jobs.create(spec())
    assert jobs.cancel(job.id).status == "cancelled"
    assert leases.claim(f"{job.id}.prepare", worker="w1") is None
    with pytest.raises(ConflictError, match="already cancelled"):
        jobs.cancel(job.id)


def test_cancelling_a_running_job_waits_for_what_runs(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    held = claim(leases, job, "prepare")
    assert leases.wanted(held) is Wanted.GO_ON
    assert jobs.cancel(job.id).status == "cancelling"
    assert jobs.cancel(job.id).status == "cancelling"
    assert leases.wanted(held) is Wanted.CANCEL
    leases.finish(held, Outcome(status="cancelled", reason="cancelled"))
    assert jobs.get(job.id).status == "cancelled"


def test_a_lost_announcement_is_repeated_when_its_queue_is_empty(
    jobs: Jobs, announcements: Announcements, engine: Engine
) -> None:
    job = jobs.create(spec())
    sent(announcements)
    assert announcements.repeat(is_empty=lambda queue: True) == 0
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET announced_at = now() - interval '1 hour'"))
    assert announcements.repeat(is_empty=lambda queue: queue != "convert") == 1
    assert sent(announcements) == [("prepare", f"{job.id}.prepare")]


def test_messages_that_could_not_be_sent_stay(jobs: Jobs, announcements: Announcements) -> None:
    jobs.create(spec())

    def refuse(queue: str, stage: str, priority: int) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        announcements.send(refuse)
    assert len(sent(announcements)) == 2


def test_events_have_no_gaps_however_many_write_at_once(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    claims = [claim(leases, job, name) for name in ("prepare", "convert")]
    line = {"message": "line", "level": "info", "data": None}

    def write(held: Claim) -> None:
        for _ in range(20):
            leases.report(held, Report(events=[line]))

    threads = [threading.Thread(target=write, args=(held,)) for held in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows, more = jobs.events(job.id, after=0, limit=100)
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert len([row for row in rows if row.message == "line"]) == 40
    assert not more


def points(*steps: int, loss: float) -> Sequence[dict[str, Any]]:
    return [{"name": "train_loss", "step": step, "value": loss, "tokens_seen": step} for step in steps]


def test_a_second_attempt_overwrites_the_steps_it_repeats(jobs: Jobs, leases: Leases, engine: Engine) -> None:
    job = jobs.create(spec())
    first = claim(leases, job, "prepare")
    leases.report(first, Report(metrics=[*points(1, 2, loss=5.0)]))
    leases.finish(first, LOST)
    make_available(engine)
    leases.report(claim(leases, job, "prepare"), Report(metrics=[*points(2, 3, loss=4.0)]))
    rows, _ = jobs.metrics(job.id, names=["train_loss"], after=None, limit=10)
    assert [(row.step, row.value, row.epoch) for row in rows] == [(1, 5.0, 1), (2, 4.0, 2), (3, 4.0, 2)]
    rest, more = jobs.metrics(job.id, names=[], after=(1, "prepare", "train_loss"), limit=1)
    assert ([row.step for row in rest], more) == ([2], True)


def test_a_pruned_checkpoint_says_so(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    held = claim(leases, job, "prepare")
    made = [{"kind": "checkpoint", "uri": f"file:///{step}", "metadata": {"step": step}} for step in (1, 2)]
    leases.report(held, Report(artifacts=made))
    leases.report(held, Report(artifacts=[{"kind": "pruned", "uri": "file:///1", "metadata": {}}]))
    rows, _ = jobs.artifacts(job.id, kinds=["checkpoint"], after=None, limit=10)
    assert [row.detail for row in rows] == [{"step": 1, "state": "pruned"}, {"step": 2}]
    assert jobs.artifacts(job.id, kinds=["checkpoint"], after=rows[0].id, limit=10)[0][0].id == rows[1].id


def test_a_checkpoint_that_is_reported_twice_is_listed_once(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create(spec())
    held = claim(leases, job, "prepare")
    made = {"kind": "checkpoint", "uri": "file:///1", "metadata": {"step": 1}}
    leases.report(held, Report(artifacts=[made]))
    leases.report(held, Report(artifacts=[made]))
    assert len(jobs.artifacts(job.id, kinds=["checkpoint"], after=None, limit=10)[0]) == 1


def test_jobs_are_listed_in_pages_both_ways(jobs: Jobs) -> None:
    ids = [jobs.create(spec(labels={"n": str(i % 2)})).id for i in range(5)]
    newest, more = jobs.find(limit=2)
    assert ([job.id for job in newest], more) == (ids[:2:-1], True)
    following, _ = jobs.find(limit=2, after=newest[-1].id)
    assert [job.id for job in following] == [ids[2], ids[1]]
    assert [job.id for job in jobs.find(limit=2, before=following[0].id)[0]] == [ids[4], ids[3]]
    assert [job.id for job in jobs.find(limit=2, order="asc", after=ids[0])[0]] == ids[1:3]
    assert [job.id for job in jobs.find(limit=9, labels={"n": "1"})[0]] == [ids[3], ids[1]]


def test_what_does_not_exist_is_said_so(jobs: Jobs) -> None:
    with pytest.raises(InvalidInputError):
        jobs.find(limit=1, after="x")
    for call in (lambda: jobs.get("x"), lambda: jobs.cancel("x")):
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(NotFoundError):
        jobs.events("x", after=0, limit=1)


@pytest.mark.parametrize(
    ("rest", "sleep"), [(0.0, 600.0), (600.0, 0.0), (600.0, 600.0)], ids=["looked at", "asked first", "just used"]
)
def test_connections_that_were_cut_are_made_anew(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch, rest: float, sleep: float
) -> None:
    monkeypatch.setattr("regraft.jobstore.engine.REST_SECONDS", rest)
    monkeypatch.setattr("regraft.jobstore.engine.SLEEP_SECONDS", sleep)
    url = f"{settings.database_url}&application_name=resting"
    resting = make_engine(settings.model_copy(update={"database_url": url}))
    for connection in [resting.connect() for _ in range(3)]:
        connection.close()
    mine = "FROM pg_stat_activity WHERE application_name = 'resting'"
    with engine.connect() as other:
        other.execute(text(f"SELECT pg_terminate_backend(pid) {mine}"))
        other.commit()
        eventually(lambda: (other.rollback(), other.scalar(text(f"SELECT count(*) {mine}")))[1] == 0, what="the end")
    if min(rest, sleep):
        with pytest.raises(OperationalError):
            Jobs(resting).find(limit=1)
    assert [Jobs(resting).find(limit=1) for _ in range(4)] == [([], False)] * 4  # one error was enough for all
    resting.dispose()


def test_a_worker_is_alive_while_it_is_heard_of(engine: Engine) -> None:
    workers = Workers(engine)
    for _ in range(2):
        workers.seen("w1", service="worker", version="1", queues=["export"], offers={"targets": {"cpu": {}}})
    assert [worker.offers for worker in workers.alive()] == [{"targets": {"cpu": {}}}]
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET seen_at = now() - interval '10 minutes'"))
    assert workers.alive() == []


def test_workers_are_remembered_for_as_long_as_is_said(engine: Engine) -> None:
    now, lately, once = Workers(engine), Workers(engine, remember_seconds=600), Workers(engine, remember_seconds=0.01)
    assert now.alive() == lately.alive() == once.alive() == []
    now.seen("w1", service="worker", version="1", queues=[], offers={})
    assert [worker.name for worker in now.alive()] == ["w1"]
    assert lately.alive() == []
    eventually(once.alive, what="the worker")
