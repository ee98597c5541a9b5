"""Wall clocks that jump, of a worker and of the API: cases 27 and 28 of the catalogue."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from bounds import WITHIN
from clock import Clock
from plant import Plant
from plant_api import Api, api_of
from sqlalchemy import text

from helpers import eventually, key_for
from regraft.jobstore import Keys, Scope

HOUR, DAY = 3600, 86_400
JUMPS = (HOUR, -HOUR, DAY, -DAY)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    try:
        return Clock(tmp_path)
    except LookupError as error:
        pytest.skip(str(error))


def test_a_worker_whose_clock_jumps_loses_no_lease(plant: Plant, clock: Clock) -> None:
    """An hour and a day, ahead and back, under worker and stage process; the other worker's clock is right."""
    plant.start_worker(**clock.environment, FAULT_STEP_SECONDS="0.1")
    plant.start_worker(FAULT_STEP_SECONDS="0.1")
    jobs = [plant.submit() for _ in range(2)]
    plant.struck()
    for number, seconds in enumerate(JUMPS, start=1):
        plant.await_step(jobs[0], 8 * number)
        clock.step(seconds)
    plant.check(*jobs, within=WITHIN[27])
    for job in jobs:
        assert [len(stage.attempts) for stage in plant.jobs.get(job).stages] == [1] * 5
        events, _ = plant.jobs.events(job, after=0, limit=200)
        assert [event.created_at for event in events] == sorted(event.created_at for event in events)


def test_an_api_whose_clock_steps_goes_by_what_happened(plant: Plant, clock: Clock) -> None:
    """Its jobs, their events, keys and repeated requests: the order and the time are the database's."""
    brief, expired = keys_of(plant)
    plant.start_worker()
    with api_of(plant, **clock.environment) as api:
        before = datetime.now(UTC)
        jobs = []
        for seconds in (0, -HOUR, DAY, -DAY):
            clock.step(seconds)
            plant.struck()
            eventually(lambda: abs(ahead(api, brief) - seconds) < 60, what="the API's clock being so far ahead")  # noqa: B023
            jobs.append(api.create(f"at{seconds}", steps=5))
            assert api.create(f"at{seconds}", steps=5) == jobs[-1]
            assert api.client.get("/jobs", headers=expired).status_code == 401
        assert listed(api) == jobs
        created = [datetime.fromisoformat(api.client.get(f"/jobs/{job}").json()["created_at"]) for job in jobs]
        times = [before, *created, datetime.now(UTC)]
        assert times == sorted(times)
        plant.check(*jobs, steps=5, within=WITHIN[28])
        every = streamed(api, jobs[0], after=0)
        assert every == list(range(1, len(every) + 1))
        assert streamed(api, jobs[0], after=4) == every[4:]


def keys_of(plant: Plant) -> tuple[dict[str, str], dict[str, str]]:
    """Headers with a key that is valid for an hour, and with one that was until a minute ago."""
    _, brief = Keys(plant.engine).create(name="brief", scope=Scope.READ, lifetime=timedelta(hours=1))
    expired = key_for(plant.settings, Scope.READ)
    with plant.engine.begin() as connection:
        past = text("UPDATE api_keys SET expires_at = now() - interval '1 minute' WHERE name = 'test'")
        connection.execute(past)
    return {"Authorization": f"Bearer {brief}"}, expired


def ahead(api: Api, key: dict[str, str]) -> float:
    """How many seconds the API's process is ahead."""
    response = api.client.get("/jobs", headers=key)
    assert response.status_code == 200
    return (parsedate_to_datetime(response.headers["Date"]) - datetime.now(UTC)).total_seconds()


def listed(api: Api) -> list[str]:
    """Every job, the first first, in pages of two."""
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = api.client.get("/jobs", params={"order": "asc", "limit": 2, **after}).json()
        found += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            return found
        after = {"after": page["last_id"]}


def streamed(api: Api, job: str, *, after: int) -> list[int]:
    """The ids of the events of a stream that is taken up after one of them."""
    headers = {"Last-Event-ID": str(after)}
    lines = api.client.get(f"/jobs/{job}/events/stream", headers=headers).text.splitlines()
    ids = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert [int(json.loads(line[6:])["id"]) for line in lines if line.startswith("data: ")] == ids
    return ids
