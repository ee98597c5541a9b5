"""The API over a real PostgreSQL and Valkey; real checkpoint headers and corpus files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event

from helpers import key_for, spec
from inputs import NEOX, write_checkpoint_headers
from regraft.formats import FORMAT_NAMES
from regraft.jobstore import Jobs, Leases, Outcome, Report, Workers
from regraft.settings import Settings
from regraft_api.app import create_app
from regraft_api.examples import JOBS


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False, headers=key_for(settings)) as client:
        yield client


@pytest.fixture
def workers(engine: Engine) -> None:
    rows = Workers(engine)
    rows.seen("d", service="dataprep", version="1", queues=["prepare"], offers={"sources": ["trc2"]})
    rows.seen("w", service="worker", version="1", queues=[], offers={"targets": {"cpu": {"devices": 1}}})


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    corpus = tmp_path / "corpus"
    corpus.write_text("<DOC>\n</DOC>\n")
    checkpoint = write_checkpoint_headers(tmp_path / "base")
    return {
        "dataset": {"uri": str(corpus), "max_sequence_length": 64},
        "base_checkpoint": {"uri": checkpoint.as_uri()},
        "target": {"kind": "cpu"},
    }


def fault(response: Any, *, status: int = 422) -> dict[str, Any]:
    """The one fault of a problem response, its general parts checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"].startswith("urn:regraft:problem:")
    assert body["status"] == status
    assert "Traceback" not in response.text
    (found,) = body["errors"]
    assert len({"pointer", "parameter", "header"} & set(found)) == 1
    return dict(found)


@pytest.mark.usefixtures("workers")
def test_a_job_is_accepted_and_can_be_looked_at(client: TestClient, job: dict[str, Any]) -> None:
    response = client.post("/jobs", json={**job, "name": "news", "labels": {"team": "a"}})
    assert response.status_code == 202, response.text
    body = response.json()
    assert response.headers["location"] == f"/jobs/{body['id']}"
    assert (body["object"], body["status"], body["warnings"]) == ("job", "queued", [])
    assert [stage["name"] for stage in body["stages"]] == ["prepare", "convert", "train", "evaluate", "export"]
    assert body["spec"]["training"]["batch_size"] == 8
    assert body["created_at"].endswith("Z")
    assert client.get(response.headers["location"]).json() == body


def test_without_workers_a_job_is_accepted_with_a_warning(client: TestClient, job: dict[str, Any]) -> None:
    warnings = client.post("/jobs", json=job).json()["warnings"]
    assert len(warnings) == 2
    assert "no compute worker is running" in warnings[0]


REFUSED: dict[str, tuple[dict[str, Any], str, Any]] = {
    "unknown field": ({"trainign": {}}, "trainign", {}),
    "unknown nested field": ({"training": {"max_step": 5}}, "training.max_step", 5),
    "negative steps": ({"training": {"max_steps": -5}}, "training.max_steps", -5),
    "missing corpus": ({"dataset": {"uri": "file:///nowhere"}}, "dataset.uri", "file:///nowhere"),
    "missing checkpoint": ({"base_checkpoint": {"uri": "/nowhere"}}, "base_checkpoint.uri", "/nowhere"),
    "target not available": ({"target": {"kind": "gpu"}}, "target.kind", "gpu"),
    "too many devices": ({"target": {"kind": "cpu", "devices": 4}}, "target.devices", 4),
    "unknown source": ({"dataset": {"uri": "/x", "source": "c4"}}, "dataset.source", "c4"),
    "unknown scheme": ({"dataset": {"uri": "gopher://x/y"}}, "dataset.uri", "gopher://x/y"),
    "unknown recipe": ({"recipe": "nothing"}, "", None),
    "no tokenizer": ({}, "dataset.tokenizer", "checkpoint"),
}


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_field_value_and_remedy(client: TestClient, job: dict[str, Any], case: str) -> None:
    change, field, value = REFUSED[case]
    if case == "no tokenizer":
        (Path(job["base_checkpoint"]["uri"].removeprefix("file://")) / "tokenizer.json").unlink()
    found = fault(client.post("/jobs", json={**job, **change}))
    assert found["field"] == field
    assert found["pointer"] == "#" + "".join(f"/{part}" for part in field.split(".") if part)
    if value is not None:
        assert found["value"] == (value if not isinstance(value, dict) else repr(value))
        assert found["remedy"]
    assert client.get("/jobs").json()["data"] == []


@pytest.mark.usefixtures("workers")
def test_a_sequence_longer_than_the_model_is_refused(client: TestClient, job: dict[str, Any]) -> None:
    job["dataset"]["max_sequence_length"] = 129
    found = fault(client.post("/jobs", json=job))
    assert (found["field"], found["value"]) == ("dataset.max_sequence_length", 129)
    assert "128" in found["remedy"]


@pytest.mark.usefixtures("workers")
def test_an_empty_corpus_is_refused(client: TestClient, job: dict[str, Any]) -> None:
    Path(job["dataset"]["uri"]).write_text("")
    response = client.post("/jobs", json=job)
    assert fault(response)["field"] == "dataset.uri"
    assert response.json()["code"] == "corpus_empty"


@pytest.mark.usefixtures("workers")
def test_a_checkpoint_whose_config_and_tensors_disagree_is_refused(client: TestClient, job: dict[str, Any]) -> None:
    write_checkpoint_headers(Path(job["base_checkpoint"]["uri"].removeprefix("file://")), claimed_layers=3)
    response = client.post("/jobs", json=job)
    assert fault(response)["field"] == "base_checkpoint.uri"
    assert response.json()["code"] == "config_tensors_disagree"


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_format_may_be_asked_for_as_far_as_it_can_hold_the_model(
    client: TestClient, job: dict[str, Any], name: str
) -> None:
    job["output"] = {"formats": [name], "max_shard_size": "500MB"}
    assert client.post("/jobs", json=job).status_code == 202
    config = Path(job["base_checkpoint"]["uri"].removeprefix("file://")) / "config.json"
    sequential = write_checkpoint_headers(config.parent, config=NEOX | {"use_parallel_residual": False})
    response = client.post("/jobs", json={**job, "base_checkpoint": {"uri": str(sequential)}})
    if name == "hf":
        assert response.status_code == 202
    else:
        found = fault(response)
        assert (found["field"], found["remedy"]) == ("output.formats", "Ask for hf only.")
        assert "one after the other" in found["message"]
    scaled = NEOX | {"rope_scaling": {"type": "linear", "factor": 4.0}}
    write_checkpoint_headers(config.parent, config=scaled)
    refused = name in ("cs-1.7", "cs-1.8", "cs-1.9", "cs-2.0")
    assert client.post("/jobs", json=job).status_code == (422 if refused else 202)


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("change", [{"formats": ["cs-3.0"]}, {"formats": ["cs-auto"]}, {"max_shard_size": "a lot"}])
def test_an_output_that_cannot_be_made_is_refused(
    client: TestClient, job: dict[str, Any], change: dict[str, Any]
) -> None:
    found = fault(client.post("/jobs", json={**job, "output": change}))
    assert found["field"].startswith("output." + next(iter(change)))


@pytest.mark.usefixtures("workers")
def test_a_base_may_be_a_weight_file_or_a_cerebras_checkpoint(
    client: TestClient, job: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(job["base_checkpoint"]["uri"].removeprefix("file://"))
    job["base_checkpoint"]["uri"] = str(folder / "model.safetensors")
    assert client.post("/jobs", json=job).status_code == 202
    (tmp_path / "cs").mkdir()
    model = tmp_path / "cs" / "checkpoint_10.mdl"
    job["base_checkpoint"]["uri"] = str(model)
    assert fault(client.post("/jobs", json=job))["field"] == "base_checkpoint.uri"
    model.write_bytes(b"of any encoding: only the worker can look into it")
    assert "0 YAML files" in fault(client.post("/jobs", json=job))["message"]
    (tmp_path / "cs" / "params.yaml").write_text("model: {}")
    assert fault(client.post("/jobs", json=job))["field"] == "dataset.tokenizer"
    (tmp_path / "cs" / "tokenizer.json").write_text("{}")
    for uri in (model, model.parent):
        job["base_checkpoint"]["uri"] = str(uri)
        assert client.post("/jobs", json=job).status_code == 202


@pytest.mark.usefixtures("workers")
def test_several_faults_are_told_at_once(client: TestClient) -> None:
    response = client.post("/jobs", json={"dataset": {"uri": ""}, "training": {"batch_size": 0}})
    fields = {entry["field"] for entry in response.json()["errors"]}
    assert fields == {"dataset.uri", "base_checkpoint", "target", "training.batch_size"}


@pytest.mark.usefixtures("workers")
def test_an_unknown_field_gets_the_nearest_known_one(client: TestClient, job: dict[str, Any]) -> None:
    assert "max_steps" in fault(client.post("/jobs", json={**job, "training": {"max_step": 5}}))["remedy"]


def test_a_body_that_is_not_json_is_refused(client: TestClient) -> None:
    assert (
        "not JSON" in fault(client.post("/jobs", content=b"{", headers={"content-type": "application/json"}))["message"]
    )


@pytest.mark.parametrize("path", ["/jobs/x", "/jobs/x/events", "/jobs/x/metrics", "/jobs/x/checkpoints", "/nothing"])
def test_what_does_not_exist_is_a_404_problem(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


def test_lists_come_in_pages(client: TestClient, engine: Engine) -> None:
    ids = [Jobs(engine).create(spec(labels={"team": "ab"[i % 2]})).id for i in range(3)]
    first = client.get("/jobs", params={"limit": 2}).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    second = client.get("/jobs", params={"limit": 2, "after": first["last_id"]}).json()
    assert ([job["id"] for job in second["data"]], second["has_more"]) == ([ids[0]], False)
    assert len(client.get("/jobs", params={"label": "team=a"}).json()["data"]) == 2
    assert client.get("/jobs", params={"status": "failed"}).json()["data"] == []
    assert fault(client.get("/jobs", params={"limit": 0}))["field"] == "limit"
    assert fault(client.get("/jobs", params={"label": "team"}))["field"] == "label.0"


def test_history_metrics_and_checkpoints_are_told(client: TestClient, engine: Engine, settings: Settings) -> None:
    job_id = Jobs(engine).create(spec()).id
    leases = Leases(engine, settings)
    claim = leases.claim(f"{job_id}.prepare", worker="w")
    assert claim is not None
    point = {"name": "train_loss", "step": 3, "value": 4.5, "tokens_seen": 99}
    made = {"kind": "checkpoint", "uri": "file:///c", "metadata": {"step": 3, "tokens_seen": 99, "val_loss": 4.0}}
    progress = {"step": 3, "total_steps": 6, "percent": 50.0, "seconds_left": 1.5, "metrics": {"train_loss": 4.5}}
    leases.report(claim, Report(progress=progress, metrics=[point], artifacts=[made]))
    leases.finish(claim, Outcome(status="failed", reason="killed", message="gone", signal=9))
    metric = client.get(f"/jobs/{job_id}/metrics").json()["data"][0]
    assert (metric["id"], metric["value"], metric["tokens_seen"]) == ("3.prepare.train_loss", 4.5, 99)
    checkpoint = client.get(f"/jobs/{job_id}/checkpoints").json()["data"][0]
    assert (checkpoint["step"], checkpoint["state"], checkpoint["metrics"]) == (3, "complete", {"val_loss": 4.0})
    events = client.get(f"/jobs/{job_id}/events", params={"limit": 2, "after": 1}).json()
    assert [event["id"] for event in events["data"]] == ["2", "3"]
    stage = client.get(f"/jobs/{job_id}").json()["stages"][0]
    assert (stage["progress"]["percent"], stage["attempts"][0]["signal"]) == (50.0, 9)


def test_cancelling_answers_with_the_job_and_then_with_a_conflict(client: TestClient, engine: Engine) -> None:
    job_id = Jobs(engine).create(spec()).id
    response = client.post(f"/jobs/{job_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "cancelled")
    again = client.post(f"/jobs/{job_id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


SERVES = "/readyz?exclude=broker&exclude=storage"
"""As the chart, the image and Compose ask."""


def test_it_serves_without_broker_and_storage(settings: Settings, tmp_path: Path) -> None:
    """All its processes miss them at once, and none would be left to accept jobs."""
    gone = {"redis_url": "redis://127.0.0.1:1/0", "storage_uri": (tmp_path / "gone" / "storage").as_uri()}
    headers = key_for(settings)
    with TestClient(create_app(settings.model_copy(update={**gone, "check_files": False})), headers=headers) as client:
        assert client.get("/readyz").status_code == 503
        assert client.get(SERVES).json() == {"status": "ok", "checks": {"database": "ok"}}
        assert client.post("/jobs", json=spec().model_dump(mode="json", by_alias=True)).status_code == 202
        assert client.get("/readyz?exclude=nothing").status_code == 422


def test_it_is_healthy_and_ready(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    checks = {"database": "ok", "broker": "ok", "storage": "ok"}
    assert client.get("/readyz").json() == {"status": "ok", "checks": checks}


def test_it_is_not_ready_without_its_storage(settings: Settings, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    with TestClient(create_app(settings.model_copy(update={"storage_uri": (shared / "storage").as_uri()}))) as client:
        assert client.get("/readyz").json()["checks"]["storage"] == "ok"  # the first artifact will make it
    shared.rmdir()
    with TestClient(create_app(settings.model_copy(update={"storage_uri": (shared / "storage").as_uri()}))) as client:
        answer = client.get("/readyz")
    found = answer.json()
    assert (answer.status_code, found["checks"]["storage"]) == (503, "FileNotFoundError")
    assert (found["checks"]["database"], found["checks"]["broker"]) == ("ok", "ok")


def test_a_request_that_rests_within_its_transaction_is_to_be_asked_again(settings: Settings, engine: Engine) -> None:
    """After a lease the server ends the transaction: a process that is stopped must not hold a job's row."""
    hasty, job = settings.model_copy(update={"lease_seconds": 0.2}), Jobs(engine).create(spec()).id

    def rest(_: Any, __: Any, statement: str, *___: Any) -> None:
        time.sleep(0.6 if "FOR NO KEY UPDATE" in statement else 0)

    with TestClient(create_app(hasty), raise_server_exceptions=False, headers=key_for(settings)) as client:
        event.listen(Engine, "after_cursor_execute", rest)
        try:
            response = client.post(f"/jobs/{job}/cancel")
        finally:
            event.remove(Engine, "after_cursor_execute", rest)
        assert (response.status_code, response.headers.get("retry-after")) == (503, "5")
        assert client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelled"


def test_servers_that_are_away_are_told_and_nothing_breaks(settings: Settings) -> None:
    headers = key_for(settings)
    away = settings.model_copy(
        update={"redis_url": "redis://127.0.0.1:1/0", "database_url": "postgresql://u@127.0.0.1:1/x"}
    )
    with TestClient(create_app(away), raise_server_exceptions=False) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert [name for name, found in ready.json()["checks"].items() if found == "ok"] == ["storage"]
        assert client.get(SERVES).status_code == 503
        response = client.get("/jobs", headers=headers)
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert "127.0.0.1" not in response.text


def test_the_documentation_is_served(client: TestClient) -> None:
    page = client.get("/docs").text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any("swagger" in asset for asset in assets)
    assert all(client.get(asset).status_code == 200 for asset in assets), "nothing comes from another host"
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/jobs", "/jobs/{job_id}", "/jobs/{job_id}/cancel", "/healthz", "/readyz"} <= set(paths)
    assert paths["/jobs"]["post"]["operationId"] == "createJob"


@pytest.mark.parametrize("name", JOBS)
def test_every_example_of_the_documentation_is_accepted(settings: Settings, name: str) -> None:
    unchecked = settings.model_copy(update={"check_files": False})
    with TestClient(create_app(unchecked), headers=key_for(settings)) as client:
        assert client.post("/jobs", json=JOBS[name]["value"]).status_code == 202
