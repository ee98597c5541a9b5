"""What a stage printed, over HTTP: in lines and in bytes, searched, in part, followed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from helpers import claimed, key_for, spec
from regraft.jobstore import Leases, Outcome
from regraft.logparts import part
from regraft.settings import Settings
from regraft_api.app import create_app

JOB = spec().model_dump(mode="json", by_alias=True)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"check_files": False}))
    with TestClient(app, raise_server_exceptions=False, headers=key_for(settings)) as client:
        yield client


def test_what_a_stage_printed_can_be_read_searched_and_fetched_in_part(
    client: TestClient, leases: Leases, settings: Settings
) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    claim = claimed(leases, job_id, "prepare")
    folder = settings.log_folder / job_id
    folder.mkdir(parents=True)
    part(folder / "prepare-1.log", 0).write_text("the oldest\nWarning: one\n")
    (folder / "prepare-1.log").write_text("between\nwarning: two\nunfinished")
    leases.finish(claim, Outcome(status="succeeded", result={}))
    lines = client.get(f"/jobs/{job_id}/logs/prepare", params={"limit": 2}).json()
    assert ([line["text"] for line in lines["data"]], lines["has_more"]) == (["the oldest", "Warning: one"], True)
    rest = client.get(f"/jobs/{job_id}/logs/prepare", params={"after": lines["last_id"]}).json()
    assert [line["text"] for line in rest["data"]] == ["between", "warning: two", "unfinished"]
    found = client.get(f"/jobs/{job_id}/logs/prepare", params={"search": "WARNING"}).json()
    assert [line["text"] for line in found["data"]] == ["Warning: one", "warning: two"]
    url = f"/jobs/{job_id}/logs/prepare/1"
    whole = client.get(url, params={"follow": True}).text
    assert whole == "the oldest\nWarning: one\nbetween\nwarning: two\nunfinished"
    for asked, expected in (("bytes=4-9", whole[4:10]), ("bytes=-5", whole[-5:]), ("bytes=20-", whole[20:])):
        some = client.get(url, headers={"Range": asked})
        assert (some.status_code, some.text) == (206, expected)
        assert some.headers["content-range"].endswith(f"/{len(whole)}")
    assert client.get(url, headers={"Range": "bytes=900-"}).status_code == 416
    assert client.get(f"/jobs/{job_id}/logs/prepare/2").status_code == 404


def test_positions_in_a_log_stay_when_its_oldest_part_is_dropped(
    client: TestClient, leases: Leases, settings: Settings
) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    claim = claimed(leases, job_id, "prepare")
    log = settings.log_folder / job_id / "prepare-1.log"
    log.parent.mkdir(parents=True)
    part(log, 0).write_text("gone\n")
    part(log, 5).write_text("kept\n")
    log.write_text("new\n")
    leases.finish(claim, Outcome(status="succeeded", result={}))
    lines, url = f"/jobs/{job_id}/logs/prepare", f"/jobs/{job_id}/logs/prepare/1"
    before = client.get(lines).json()["data"]
    part(log, 0).unlink()
    assert client.get(lines).json()["data"] == before[1:]
    assert client.get(lines, params={"after": before[1]["id"]}).json()["data"] == before[2:]
    assert client.get(lines, params={"after": 2}).json()["data"] == before[1:], "not a piece of a line"
    whole = client.get(url)
    assert (whole.status_code, whole.text) == (200, "kept\nnew\n")
    for asked in ("bytes=0-", "bytes=2-", "bytes=5-13"):
        some = client.get(url, headers={"Range": asked})
        assert some.text == "kept\nnew\n"
        assert some.headers.get("content-range", "bytes 5-13/14") == "bytes 5-13/14"
        assert some.status_code == (200 if asked == "bytes=5-13" else 206)
    gone = client.get(url, headers={"Range": "bytes=0-4"})
    assert (gone.status_code, gone.headers["content-range"]) == (416, "bytes */14")
    assert "before byte 5" in gone.json()["detail"]


def test_a_log_is_followed_until_its_attempt_has_ended(client: TestClient, leases: Leases, settings: Settings) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    claim = claimed(leases, job_id, "prepare")
    log = settings.log_folder / job_id / "prepare-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("first\n")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(client.get, f"/jobs/{job_id}/logs/prepare/1", params={"follow": True})
        with log.open("a") as file:
            file.write("second\n")
        leases.finish(claim, Outcome(status="succeeded", result={}))
        assert following.result(20).text == "first\nsecond\n"
