"""An API that is killed while it creates a job, before and after the commit: cases 23 and 24 of the catalogue."""

from __future__ import annotations

import threading

import httpx
import pytest
from bounds import WITHIN
from plant import plant_of
from plant_api import api_of
from sqlalchemy import Engine, text

from helpers import eventually
from regraft.settings import Settings

WAITING = text(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND query LIKE '%INSERT INTO jobs%'"
)
JOBS = text("SELECT count(*) FROM jobs")
HINTS = text("SELECT count(*) FROM outbox")
SENT_SECONDS = 5.0


@pytest.mark.parametrize("carried_out", [False, True], ids=["rolled back", "committed"])
def test_a_request_that_is_repeated_creates_one_job(engine: Engine, settings: Settings, carried_out: bool) -> None:
    """Where it was committed, the job is also sent on its way, by nobody but the dispatcher."""
    answers: list[httpx.Response | None] = []
    with plant_of(engine, settings) as plant, api_of(plant) as api, engine.connect() as looking:
        looking.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as blocker:
            blocker.execute(text("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"))
            asking = threading.Thread(target=lambda: answers.append(api.post("once", steps=5)))
            asking.start()
            waiting = eventually(lambda: looking.scalar(WAITING), what="the statement waiting before its commit")
            api.kill()
            plant.struck()
            asking.join()
            if not carried_out:
                looking.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": waiting})
            blocker.rollback()
        assert answers == [None]
        if carried_out:
            eventually(lambda: looking.scalar(JOBS) == 1, what="the commit that nobody heard of")
            eventually(lambda: looking.scalar(HINTS) == 0, seconds=SENT_SECONDS, what="the hints being sent")
        api.start()
        first, second = api.post("once", steps=5), api.post("once", steps=5)
        assert first is not None and second is not None
        assert (first.status_code, first.json()["id"]) == (202, second.json()["id"])
        assert ("Idempotent-Replayed" in first.headers) is carried_out
        assert looking.scalar(JOBS) == 1
        assert looking.scalar(text("SELECT count(*) FROM stages")) == 5
        plant.start_worker()
        plant.check(first.json()["id"], steps=5, within=WITHIN[23 if carried_out else 24])
