"""The life of a job over HTTP: created once, changed, paused, tried again, cloned; what it printed, measured, made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from helpers import claimed, key_for, spec
from regraft.jobstore import Claim, Jobs, Leases, Outcome, Report, Workers
from regraft.settings import Settings
from regraft.storage import publish
from regraft_api.app import create_app

JOB = spec().model_dump(mode="json", by_alias=True)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"check_files": False}))
    with TestClient(app, raise_server_exceptions=False, headers=key_for(settings)) as client:
        yield client


def trained(leases: Leases, job_id: str) -> Claim:
    """The claim of the train stage, the two before it done."""
    for name in ("prepare", "convert"):
        result = {"uri": f"file:///{name}", "address": f"{name}-1"}
        leases.finish(claimed(leases, job_id, name), Outcome(status="succeeded", result=result))
    return claimed(leases, job_id, "train")


def test_fifty_equal_requests_make_one_job_and_get_one_answer(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post("/jobs", json=JOB, headers=headers), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(client.get("/jobs").json()["data"]) == 1


def test_a_replayed_answer_is_the_first_one_whatever_became_of_the_job(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post("/jobs", json=JOB, headers=headers)
    client.post(f"/jobs/{first.json()['id']}/cancel")
    client.patch(f"/jobs/{first.json()['id']}", json={"labels": {"a": "b"}})
    assert client.post("/jobs", json=JOB, headers=headers).text == first.text
    fresh = client.post("/jobs", json=JOB)
    assert fresh.json()["id"] != first.json()["id"]
    assert client.get(f"/jobs/{fresh.json()['id']}").json() == fresh.json(), "the answer says what is in the database"


def test_a_key_that_was_used_for_another_request_is_refused(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    client.post("/jobs", json=JOB, headers=headers)
    other = client.post("/jobs", json={**JOB, "name": "other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_an_equal_request_is_answered_though_its_checks_would_fail_by_now(settings: Settings, engine: Engine) -> None:
    """Its worker is gone, and what was pinned has moved; each process of the API knows the workers of its own time."""
    headers = {**key_for(settings), "Idempotency-Key": "k"}
    processes = [create_app(settings.model_copy(update={"check_files": False})) for _ in range(2)]
    with TestClient(processes[0], headers=headers) as client:
        first = client.post("/jobs", json=JOB)
        clone = client.post(f"/jobs/{first.json()['id']}/clone", json={}, headers={"Idempotency-Key": "k2"})
    assert (first.status_code, clone.status_code) == (202, 202)
    Workers(engine).seen("w", service="worker", version="1", queues=[], offers={"targets": {"gpu": {"devices": 1}}})
    with TestClient(processes[1], headers=headers) as client:
        assert client.post("/jobs", json=JOB, headers={"Idempotency-Key": "new"}).status_code == 422
        for params in ({}, {"plan_hash": "0" * 64}):
            again = client.post("/jobs", json=JOB, params=params)
            assert (again.status_code, again.text) == (202, first.text)
            assert again.headers["idempotent-replayed"] == "true"
        url = f"/jobs/{first.json()['id']}/clone"
        assert client.post(url, json={}, headers={"Idempotency-Key": "k2"}).text == clone.text
        assert client.post("/jobs", json=JOB, params={"dry_run": True}).status_code == 422
        other = client.post("/jobs", json={**JOB, "name": "other"})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(Jobs(engine).find(limit=9)[0]) == 2


def test_a_key_whose_request_is_still_worked_on_is_a_conflict(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft_api.app.LOCK_SECONDS", 0.2)
    job_id = Jobs(engine).create(spec()).id
    app = create_app(settings.model_copy(update={"check_files": False}))
    with TestClient(app, headers=key_for(settings)) as client, engine.begin() as other:
        columns = "(project_id, key, digest, admitted, job_id)"
        insert = text(f"INSERT INTO idempotency_keys {columns} VALUES ('default', 'k', 'd', true, :job)")
        other.execute(insert, {"job": job_id})
        answer = client.post("/jobs", json=JOB, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_flight")
        assert answer.headers["retry-after"]
        other.rollback()
    assert len(Jobs(engine).find(limit=9)[0]) == 1


def test_a_job_is_paused_resumed_and_tried_again(client: TestClient, leases: Leases) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    train = trained(leases, job_id)
    assert client.post(f"/jobs/{job_id}/pause").json()["status"] == "pausing"
    assert client.post(f"/jobs/{job_id}/resume").json()["code"] == "conflict"
    leases.finish(train, Outcome(status="released", reason="paused"))
    assert client.get(f"/jobs/{job_id}").json()["status"] == "paused"
    assert client.post(f"/jobs/{job_id}/resume").json()["status"] == "queued"
    leases.finish(claimed(leases, job_id, "train"), Outcome(status="failed", reason="nan", message="loss is NaN"))
    assert client.get(f"/jobs/{job_id}").json()["message"] == "train: loss is NaN"
    again = client.post(f"/jobs/{job_id}/retry").json()
    assert [stage["status"] for stage in again["stages"]] == ["succeeded", "succeeded", "ready", "pending", "pending"]
    assert [attempt["attempt"] for attempt in again["stages"][2]["attempts"]] == [1, 2]
    refused = client.post(f"/jobs/{job_id}/retry")
    assert refused.status_code == 409
    assert "train ready" in refused.json()["detail"]


def test_labels_change_under_an_etag(client: TestClient) -> None:
    job_id = client.post("/jobs", json={**JOB, "labels": {"team": "a"}}).json()["id"]
    tag = client.get(f"/jobs/{job_id}").headers["etag"]
    changed = client.patch(f"/jobs/{job_id}", json={"labels": {"team": "b"}}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["labels"]) == (200, {"team": "b"})
    assert changed.headers["etag"] == client.get(f"/jobs/{job_id}").headers["etag"] != tag
    late = client.patch(f"/jobs/{job_id}", json={"labels": {}}, headers={"If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (412, "version_mismatch")
    assert client.patch(f"/jobs/{job_id}", json={"status": "failed"}).status_code == 422
    assert client.get("/jobs", params={"label": "team=b"}).json()["data"][0]["id"] == job_id


def test_a_clone_differs_where_it_is_told_to(client: TestClient) -> None:
    first = client.post("/jobs", json={**JOB, "labels": {"team": "a", "gone": "x"}}).json()
    overrides = {"name": "more", "training": {"max_steps": 7}, "labels": {"gone": None}}
    cloned = client.post(f"/jobs/{first['id']}/clone", json={"overrides": overrides})
    assert cloned.status_code == 202, cloned.text
    second = cloned.json()
    assert second["labels"] == {"team": "a"}
    assert second["spec"]["training"] == {**first["spec"]["training"], "max_steps": 7}
    assert second["spec"]["dataset"] == first["spec"]["dataset"]
    wrong = client.post(f"/jobs/{first['id']}/clone", json={"overrides": {"training": {"max_steps": -1}}})
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["pointer"] == "#/overrides/training/max_steps"


def test_a_series_is_short_and_hides_no_spike(client: TestClient, leases: Leases) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    claim = trained(leases, job_id)
    losses = [5.0 - step / 1000 for step in range(2000)]
    losses[777] = 99.0
    points = [
        {"name": "train_loss", "step": step, "value": loss, "tokens_seen": step * 8} for step, loss in enumerate(losses)
    ]
    leases.report(claim, Report(metrics=points))
    (series,) = client.get(f"/jobs/{job_id}/metrics/series", params={"points": 50}).json()["data"]
    assert (series["name"], series["stage"], len(series["points"])) == ("train_loss", "train", 49)
    assert max(point["max"] for point in series["points"]) == 99.0
    assert (series["points"][-1]["step"], series["points"][-1]["value"]) == (1999, losses[-1])
    assert sum(point["count"] for point in series["points"]) == 2000
    for point, start in zip(series["points"], [0, *(p["step"] + 1 for p in series["points"])], strict=False):
        mean = sum(losses[start : point["step"] + 1]) / point["count"]
        assert point["value"] == pytest.approx(losses[-1] if point["step"] == 1999 else mean, abs=1e-9)
    assert client.get(f"/jobs/{job_id}/metrics/series", params={"name": "other"}).json()["data"] == []


def paged(client: TestClient, url: str, **query: Any) -> list[Any]:
    """Every item of a list, two to a page."""
    found, after = [], {}
    while True:
        page = client.get(url, params={**query, **after, "limit": 2}).raise_for_status().json()
        found += page["data"]
        assert len(page["data"]) == 2 or not page["has_more"]
        if not page["has_more"]:
            return found
        after = {"after": page["last_id"]}


def test_series_come_in_pages(client: TestClient, leases: Leases) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    claim = trained(leases, job_id)
    names = ["val_loss/é 2", "a", "train_loss", "b", "train_lr"]
    points = [{"name": name, "step": step, "value": 1.0, "tokens_seen": 1} for name in names for step in range(3)]
    leases.report(claim, Report(metrics=points))
    url = f"/jobs/{job_id}/metrics/series"
    whole = client.get(url).json()
    assert [one["name"] for one in whole["data"]] == sorted(names)
    assert not whole["has_more"]
    assert paged(client, url) == whole["data"]
    assert [one["name"] for one in paged(client, url, name=["b", "train_lr", "a"])] == ["a", "b", "train_lr"]
    assert client.get(url, params={"after": "train.zzz"}).json()["data"] == []


def checkpoint_of(client: TestClient, leases: Leases, settings: Settings) -> tuple[str, dict[str, Any], Path]:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    claim = trained(leases, job_id)
    folder = settings.home / "storage" / "jobs" / job_id / "train" / "step-00000005"
    with publish(folder, kind="checkpoint") as draft:
        (draft.folder / "config.json").write_text('{"n": 1}')
        (draft.folder / "training_state").mkdir()
        (draft.folder / "training_state" / "state.bin").write_bytes(bytes(range(256)))
        draft.parents = {"dataset": "prepare-1"}
    made = {"kind": "checkpoint", "uri": folder.as_uri(), "metadata": {"step": 5, "tokens_seen": 99, "val_loss": 4.0}}
    leases.report(claim, Report(artifacts=[made]))
    (found,) = client.get(f"/jobs/{job_id}/checkpoints").json()["data"]
    return f"/jobs/{job_id}/checkpoints", found, folder


def test_files_of_a_checkpoint_are_fetched_in_part_and_by_digest(
    client: TestClient, leases: Leases, settings: Settings
) -> None:
    base, found, folder = checkpoint_of(client, leases, settings)
    files = {file["id"]: file for file in client.get(f"{base}/{found['id']}/files").json()["data"]}
    assert set(files) == {"config.json", "training_state/state.bin"}
    one = client.get(f"{base}/{found['id']}/files", params={"limit": 1}).json()
    assert ([file["id"] for file in one["data"]], one["has_more"]) == (["config.json"], True)
    assert paged(client, f"{base}/{found['id']}/files") == list(files.values())
    rest = client.get(f"{base}/{found['id']}/files", params={"after": one["last_id"]}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (["training_state/state.bin"], False)
    url = f"{base}/{found['id']}/files/training_state/state.bin"
    whole = client.get(url)
    assert whole.content == bytes(range(256))
    assert whole.headers["etag"] == f'"{files["training_state/state.bin"]["sha256"]}"'
    part = client.get(url, headers={"Range": "bytes=16-31", "If-Range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, bytes(range(16, 32)))
    assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    absolute = str(folder / "config.json")
    for path in ("../../secret", "%2e%2e/%2e%2e/secret", "manifest.json/../../x", "nothing", absolute):
        assert client.get(f"{base}/{found['id']}/files/{path}").status_code == 404, path


def test_a_promoted_checkpoint_outlives_the_one_it_was_made_from(
    client: TestClient, leases: Leases, settings: Settings
) -> None:
    base, found, folder = checkpoint_of(client, leases, settings)
    promoted = client.post(f"{base}/{found['id']}/promote").json()
    assert client.post(f"{base}/{found['id']}/promote").json() == promoted, "twice is once"
    assert (promoted["promoted"], promoted["parent_id"], promoted["step"]) == (True, found["id"], 5)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert client.get(f"{base}/{found['id']}/files/config.json").status_code == 404
    assert client.get(f"{base}/{promoted['id']}/files/config.json").json() == {"n": 1}
    lineage = client.get(f"{base}/{promoted['id']}/lineage").json()
    assert lineage["parents"] == {"dataset": "prepare-1"}
    assert [(origin["role"], origin["address"], origin["sources"]) for origin in lineage["origins"]] == [
        ("dataset", "prepare-1", ["/data/corpus"]),
        ("base_checkpoint", "convert-1", ["/models/base"]),
    ]


def test_what_can_be_asked_for_is_what_workers_say(client: TestClient, engine: Engine) -> None:
    rows = Workers(engine)
    rows.seen("d", service="dataprep", version="1", queues=["prepare"], offers={"sources": ["trc2", "jsonl"]})
    for name, devices in (("a", 1), ("b", 8)):
        offers = {"targets": {"gpu": {"devices": devices, "name": name}}}
        rows.seen(name, service="worker", version="1", queues=["train.gpu"], offers=offers)
    found = client.get("/capabilities").json()
    assert found["targets"] == [{"kind": "gpu", "devices": 8, "workers": 2, "facts": {"devices": 8, "name": "b"}}]
    assert found["sources"] == ["jsonl", "trc2"]
    assert {"gptj", "gpt-neox"} <= set(found["families"])
    assert "cs-1.8" in found["formats"]
    assert found["workers"] == 3


def test_running_workers_are_listed_by_name(client: TestClient, engine: Engine) -> None:
    for name in ("c", "a", "b"):
        Workers(engine).seen(name, service="worker", version="1", queues=["export"], offers={})
    first = client.get("/workers", params={"limit": 2}).json()
    assert [worker["id"] for worker in first["data"]] == ["a", "b"]
    assert first["has_more"]
    rest = client.get("/workers", params={"after": first["last_id"]}).json()
    assert [worker["id"] for worker in rest["data"]] == ["c"]
    assert not rest["has_more"]


def test_a_cursor_that_no_list_has_is_refused_and_no_empty_page(
    client: TestClient, engine: Engine, leases: Leases
) -> None:
    job, other = (client.post("/jobs", json=JOB).json()["id"] for _ in range(2))
    claims = [claimed(leases, one, "prepare") for one in (job, other)]
    for claim in claims:
        made = [{"kind": "checkpoint", "uri": f"file:///{claim.job_id}", "metadata": {"step": 1}}]
        leases.report(claim, Report(artifacts=made))
    elsewhere = client.get(f"/jobs/{other}/checkpoints").json()["last_id"]
    mine = client.get(f"/jobs/{job}/checkpoints").json()["last_id"]
    foreign = Jobs(engine, project="other").create(spec()).id
    for path, field, cursors in (
        ("/jobs", "after", ["job-0", foreign]),
        ("/jobs", "before", ["job-0", foreign]),
        ("/queue", "after", ["job-0.prepare", f"{foreign}.prepare"]),
        (f"/jobs/{job}/checkpoints", "after", ["art-0", elsewhere]),
        ("/keys", "after", ["key-0"]),
    ):
        for cursor in cursors:
            refused = client.get(path, params={field: cursor})
            assert refused.status_code == 422, (path, cursor)
            found = refused.json()["errors"][0]
            assert (found["field"], found["value"]) == (field, cursor)
    # What has left the list since its page was read still says where to go on.
    taken = client.get("/queue", params={"after": f"{job}.prepare"})
    assert [stage["id"] for stage in taken.json()["data"]] == [f"{other}.convert"]
    assert client.get(f"/jobs/{job}/checkpoints", params={"after": mine}).json()["data"] == []


def test_the_queue_and_prometheus_tell_what_waits(client: TestClient, engine: Engine, leases: Leases) -> None:
    Workers(engine).seen("d", service="dataprep", version="1", queues=["prepare"], offers={})
    ids = [client.post("/jobs", json=JOB).json()["id"] for _ in range(3)]
    lost = claimed(leases, ids[0], "prepare")
    leases.finish(lost, Outcome(status="failed", reason="worker_lost", reason_class=None, message="gone"))
    leases.report(claimed(leases, ids[1], "prepare"), Report(progress={"step": 1, "metrics": {}}))
    first = client.get("/queue", params={"limit": 2}).json()
    second = client.get("/queue", params={"limit": 2, "after": first["last_id"]}).json()
    waiting = [stage["id"] for stage in first["data"] + second["data"]]
    assert waiting == [f"{ids[1]}.convert", *(f"{ids[2]}.{name}" for name in ("convert", "prepare"))]
    depths = {queue["queue"]: (queue["ready"], queue["running"], queue["workers"]) for queue in first["queues"]}
    assert depths == {"prepare": (1, 1, 1), "convert": (2, 0, 0)}
    told = client.get("/metrics").text
    for line in (
        'regraft_queue_ready_stages{queue="convert"} 2.0',
        'regraft_jobs{status="failed"} 1.0',
        'regraft_leases_lost_total{stage="prepare"} 1.0',
        'regraft_stage_seconds_bucket{le="1.0",stage="prepare",status="failed"} 1.0',
        'regraft_stage_seconds_count{stage="prepare",status="failed"} 1.0',
        'regraft_workers{role="dataprep"} 1.0',
        'regraft_http_request_seconds_count{method="POST",route="/jobs",status="202"} 3.0',
    ):
        assert line in told, line


def test_the_history_of_many_jobs_reads_in_pages_from_both_ends(client: TestClient) -> None:
    ids = [client.post("/jobs", json=JOB).json()["id"] for _ in range(5)]
    forward = client.get("/jobs", params={"order": "asc", "limit": 3}).json()
    assert [job["id"] for job in forward["data"]] == ids[:3]
    before = client.get("/jobs", params={"order": "asc", "limit": 2, "before": forward["last_id"]}).json()
    assert ([job["id"] for job in before["data"]], before["has_more"]) == (ids[:2], False)
    assert client.get("/jobs", params={"after": ids[0], "before": ids[1]}).status_code == 422
    assert json.loads(client.get("/jobs", params={"after": "job-none"}).text)["errors"][0]["field"] == "after"
