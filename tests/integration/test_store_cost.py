"""What a stage costs the database: statements, plans that suit a long queue, and who waits for whom.

A worker's calls are few statements each, so that a fleet is carried by one PostgreSQL. The counts are exact: a
statement more is seen here, before it is seen in `benchmarks/fleet.py`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from helpers import claimed, spec
from regraft.errors import FencedError
from regraft.jobstore import Announcements, Jobs, Leases, Outcome, Report, Workers, make_engine
from regraft.jobstore.advance import lock_job
from regraft.jobstore.history import finished_trainings
from regraft.jobstore.notices import watch
from regraft.jobstore.reading import Reading
from regraft.models import Job
from regraft.settings import Settings

POINT = {"name": "train_loss", "step": 1, "value": 2.5, "tokens_seen": 64}
PROGRESS = Report(progress={"step": 1}, metrics=[POINT, {**POINT, "name": "rate"}])
QUEUES = ["prepare", "convert"]
DONE = Outcome(status="succeeded", result={"uri": "file:///x", "address": "x"})


@contextmanager
def recorded(engine: Engine) -> Iterator[list[str]]:
    """The statements that are sent meanwhile."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_watching_lets_metrics_be_written(engine: Engine, settings: Settings, leases: Leases) -> None:
    """Their foreign key asks for the job's id while `watch` holds the job's row."""
    held = claimed(leases, Jobs(engine).create(spec()).id, "prepare")
    impatient = make_engine(settings, lock_seconds=1.0)
    reported: list[str] = []

    def meanwhile(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("UPDATE jobs"):
            Leases(impatient, settings).report(held, PROGRESS)
            reported.append(statement)

    event.listen(engine, "before_cursor_execute", meanwhile)
    try:
        watch(engine, [held.job_id])
    finally:
        event.remove(engine, "before_cursor_execute", meanwhile)
        impatient.dispose()
    assert len(reported) == 1


def tables(statements: list[str]) -> Counter[str]:
    """How often each table is read or written, by the first that a statement names."""
    first = re.compile(r"\A(SELECT .*? FROM|INSERT INTO|UPDATE|WITH .*?UPDATE) (\w+)", re.DOTALL)
    found = [first.search(" ".join(statement.split())) for statement in statements]
    return Counter(f"{match[1].split()[0]} {match[2]}" for match in found if match is not None)


def test_a_stage_costs_few_statements(engine: Engine, settings: Settings) -> None:
    leases, workers = Leases(engine, settings), Workers(engine)
    job = Jobs(engine).create(spec())
    leases.finish(claimed(leases, job.id, "prepare"), DONE)
    with recorded(engine) as looked:
        assert leases.ready(QUEUES) == [f"{job.id}.convert"]
    with recorded(engine) as claims:
        held = claimed(leases, job.id, "convert")
    with recorded(engine) as small:
        leases.report(held, PROGRESS)
        leases.renew(held)
        leases.wanted(held)
        workers.seen("w", service="worker", version="0", queues=QUEUES, offers={})
    with recorded(engine) as ends:
        leases.finish(held, DONE)
    assert len(looked) == 1
    assert len(small) == 4, small
    read = {"SELECT jobs": 1, "SELECT stages": 1, "UPDATE jobs": 1, "INSERT events": 1}
    assert tables(claims) == {**read, "WITH stages": 1}
    # Its own row, and that of the stage which is ready now.
    assert tables(ends) == {**read, "UPDATE attempts": 1, "UPDATE stages": 2, "INSERT outbox": 1}


def test_progress_does_not_wait_for_whoever_holds_the_job(engine: Engine, settings: Settings) -> None:
    held = claimed(Leases(engine, settings), Jobs(engine).create(spec()).id, "prepare")
    hasty = make_engine(settings, lock_seconds=0.3)
    leases = Leases(hasty, settings)
    with Session(engine) as session:
        lock_job(session, held.job_id)
        leases.report(held, PROGRESS)
        leases.renew(held)
    # The stronger lock is what it would wait for: the foreign key of a metric asks that the job's id stays.
    with Session(engine) as session:
        session.scalar(select(Job).where(Job.id == held.job_id).with_for_update())
        with pytest.raises(OperationalError, match="lock timeout"):
            leases.report(held, Report(metrics=[{**POINT, "step": 2}]))
    hasty.dispose()
    found = Jobs(engine).metrics(held.job_id, names=[], after=None, limit=9)[0]
    assert {(row.name, row.step, row.epoch) for row in found} == {("train_loss", 1, 1), ("rate", 1, 1)}


def test_a_report_of_what_is_not_ours_writes_nothing(engine: Engine, settings: Settings) -> None:
    leases, jobs = Leases(engine, settings), Jobs(engine)
    held = claimed(leases, jobs.create(spec()).id, "prepare")
    leases.finish(held, Outcome(status="released"))
    with pytest.raises(FencedError):
        leases.report(held, PROGRESS)
    assert jobs.metrics(held.job_id, names=[], after=None, limit=9)[0] == []
    assert all(stage.progress is None for stage in jobs.get(held.job_id).stages)


def test_the_last_of_equal_points_counts_and_a_loss_may_be_no_number(engine: Engine, settings: Settings) -> None:
    leases, jobs = Leases(engine, settings), Jobs(engine)
    held = claimed(leases, jobs.create(spec()).id, "prepare")
    leases.report(held, Report(metrics=[POINT, {**POINT, "value": 3}, {**POINT, "name": "norm", "tokens_seen": None}]))
    leases.report(held, Report(metrics=[{**POINT, "name": "norm", "value": math.nan}]))
    loss, norm = sorted(jobs.metrics(held.job_id, names=[], after=None, limit=9)[0], key=lambda row: -row.value)[:2]
    if math.isnan(loss.value):
        loss, norm = norm, loss
    assert (loss.name, loss.value, loss.tokens_seen) == ("train_loss", 3.0, 64)
    assert (norm.name, norm.tokens_seen) == ("norm", 64)
    assert math.isnan(norm.value)
    assert jobs.get(held.job_id).stages[0].progress is None  # a report without progress leaves it as it was


def plan_for_any_parameter(settings: Settings, statement: str) -> str:
    """How the server would carry it out with a plan that it keeps, were the table long."""
    numbers = iter(range(1, 100))
    numbered = re.sub(r"%\(\w+\)s", lambda _: f"${next(numbers)}", statement)
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("SET enable_seqscan = off")
        rows = connection.execute(f"EXPLAIN (GENERIC_PLAN) {numbered}".encode()).fetchall()
    return "\n".join(row[0] for row in rows)


def test_a_long_queue_is_read_by_the_index_whatever_the_parameters(engine: Engine, settings: Settings) -> None:
    leases, announcements = Leases(engine, settings), Announcements(engine, settings)
    Jobs(engine).create(spec())
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET announced_at = now() - interval '1 h' WHERE status = 'ready'"))
    with recorded(engine) as sent:
        leases.ready(QUEUES)
        announcements.repeat(is_empty=lambda _: True)
        Reading(engine).queues()
    ready, queues, repeat, depths = sent
    assert plan_for_any_parameter(settings, ready).count("using stages_ready") == len(QUEUES)
    assert re.search("using stages_(ready|announced)", plan_for_any_parameter(settings, queues))
    assert "using stages_announced" in plan_for_any_parameter(settings, repeat)
    by_state = plan_for_any_parameter(settings, depths)
    assert re.search("using stages_(ready|announced)", by_state)
    assert "using stages_running" in by_state
    # With the state as a parameter the server could not know that the index holds what is asked for.
    planted = ready.replace("status = 'ready'", "status = %(status)s")
    assert "stages_ready" not in plan_for_any_parameter(settings, planted)


def test_a_page_of_what_waits_and_the_last_trainings_are_read_in_the_order_of_an_index(
    engine: Engine, settings: Settings
) -> None:
    """However much waits, and however many jobs have not trained: nothing is sorted that is not sent."""
    first = Jobs(engine).create(spec()).stages[0].id
    with recorded(engine) as sent:
        Reading(engine).waiting(project="default", after=None, limit=2)
        Reading(engine).waiting(project="default", after=first, limit=2)
        finished_trainings(engine)
    top, place, page, trained = (plan_for_any_parameter(settings, statement) for statement in sent[:4])
    assert "using stages_pkey" in place
    for plan in (top, page):
        assert "using stages_waiting" in plan
        assert "Sort" not in plan
    assert re.search(r"Index Cond: .*ROW\(available_at, id\) > ROW", page)
    assert "Index Scan Backward using stages_trained" in trained
    planted = sent[0].replace("status = 'ready'", "status = %(status)s")
    assert "stages_waiting" not in plan_for_any_parameter(settings, planted)


def test_an_announcement_that_is_repeated_keeps_the_stages_place(engine: Engine, settings: Settings) -> None:
    announcements = Announcements(engine, settings)
    job = Jobs(engine).create(spec())
    announcements.send(lambda *_: None)
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET announced_at = now() - interval '1 h' WHERE status = 'ready'"))
    asked: list[str] = []
    assert announcements.repeat(is_empty=lambda queue: not asked.append(queue)) == 2
    assert asked == ["convert", "prepare"]
    assert announcements.repeat(is_empty=lambda _: True) == 0
    assert announcements.send(lambda *_: None) == 2
    after = {stage.name: stage.available_at for stage in Jobs(engine).get(job.id).stages}
    assert after == {stage.name: stage.available_at for stage in job.stages}


def test_a_new_version_of_a_jobs_row_does_not_carry_the_request(engine: Engine) -> None:
    Jobs(engine).create(spec())
    with engine.connect() as connection:
        beside = connection.execute(text("SELECT pg_column_toast_chunk_id(spec) IS NOT NULL FROM jobs")).scalar_one()
    assert beside
