"""What the dispatcher does with the database alone: it needs no broker for that, and is fair to a late renewal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select, text

from helpers import claimed, eventually, spec
from regraft.dispatcher import Dispatcher
from regraft.errors import FencedError
from regraft.jobstore import Announcements, Claim, Jobs, Leases, Operations, Workers, announcements
from regraft.models import Stage
from regraft.queue import Broker, make_celery
from regraft.settings import Settings

OVERDUE = text("UPDATE stages SET lease_until = now() - interval '1 s' WHERE id = :stage")
WAITING_FOR_A_LOCK = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def prepare_of(engine: Engine, job: str) -> Stage:
    return Jobs(engine).get(job).stages[0]


def overdue(engine: Engine, leases: Leases) -> Claim:
    """A claim whose lease has run out."""
    claim = claimed(leases, Jobs(engine).create(spec()).id, "prepare")
    with engine.begin() as connection:
        connection.execute(OVERDUE, {"stage": claim.stage_id})
    return claim


def test_a_broker_that_is_away_keeps_nothing_from_being_taken_back_admitted_or_forgotten(
    engine: Engine, settings: Settings, leases: Leases
) -> None:
    jobs, away = Jobs(engine), settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    lost, first = overdue(engine, leases), jobs.create(spec())
    Operations(engine).limit("default", max_unfinished=None, max_running=2)
    waits = jobs.create(spec())
    jobs.cancel(first.id)
    Workers(engine).seen("old", service="worker", version="0", queues=[], offers={})
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET seen_at = now() - interval '2 days'"))
        due = connection.scalar(text("SELECT count(*) FROM outbox WHERE available_at <= now()"))
    dispatcher = Dispatcher(Announcements(engine, settings), Broker(make_celery(away)))
    began = time.monotonic()
    with pytest.raises(Broker.Unreachable):
        dispatcher.once()
    assert time.monotonic() - began < 4, "kombu's own patience, six seconds, keeps the next sweep waiting"
    assert due
    assert (prepare_of(engine, lost.job_id).status, prepare_of(engine, waits.id).status) == ("ready", "ready")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM workers")) == 0
        still = text("SELECT count(*) FROM outbox WHERE stage_id = :stage AND available_at <= now()")
        assert connection.scalar(still, {"stage": f"{waits.id}.prepare"}) == 1, "it is sent when the broker is back"


def reclaimed_beside_a_renewal(engine: Engine, settings: Settings, claim: Claim) -> int:
    """How many stages were taken back while a renewal had been carried out, but not yet committed."""
    found: list[int] = []
    sweep = threading.Thread(target=lambda: found.append(Announcements(engine, settings).reclaim()))
    with engine.connect() as renewal, engine.connect() as onlooker:
        renewed = text("UPDATE stages SET lease_until = now() + interval '1 h' WHERE id = :stage")
        renewal.execute(renewed, {"stage": claim.stage_id})
        sweep.start()

        def waits() -> bool:
            onlooker.rollback()
            return bool(onlooker.scalar(WAITING_FOR_A_LOCK))

        eventually(waits, what="the sweep waiting for the renewal")
        renewal.commit()
    sweep.join()
    return found[0]


def test_a_renewal_that_was_accepted_keeps_the_stage(engine: Engine, settings: Settings, leases: Leases) -> None:
    claim = overdue(engine, leases)
    assert reclaimed_beside_a_renewal(engine, settings, claim) == 0
    leases.renew(claim)
    assert prepare_of(engine, claim.job_id).status == "running"


def test_without_the_lock_it_would_be_taken_away_all_the_same(
    engine: Engine, settings: Settings, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error."""
    unlocked: Callable[[str], object] = lambda stage_id: select(Stage).where(Stage.id == stage_id)  # noqa: E731
    monkeypatch.setattr(announcements, "_silent", unlocked)
    claim = overdue(engine, leases)
    assert reclaimed_beside_a_renewal(engine, settings, claim) == 1


def test_a_renewal_that_comes_after_the_sweep_is_refused(engine: Engine, settings: Settings, leases: Leases) -> None:
    claim = overdue(engine, leases)
    assert Announcements(engine, settings).reclaim() == 1
    with pytest.raises(FencedError):
        leases.renew(claim)
