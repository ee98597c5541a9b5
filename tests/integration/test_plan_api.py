"""`POST /jobs/plan`, `dry_run` and `plan_hash` over a real PostgreSQL; the refusal of what cannot fit."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import Result
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from helpers import eventually, key_for, spec
from inputs import CONFIG, write_checkpoint_headers
from regraft.cli import make_app
from regraft.client import ApiError
from regraft.embedded import free_port
from regraft.jobs import StageName, StageStatus
from regraft.jobstore import Jobs, Workers
from regraft.jobstore.history import finished_trainings
from regraft.models import Metric, Stage
from regraft.settings import Settings
from regraft_api.app import create_app

MEMORY = 16_000_000_000


@pytest.fixture
def client(settings: Settings, engine: Engine) -> Iterator[TestClient]:
    rows = Workers(engine)
    rows.seen("d", service="dataprep", version="1", queues=["prepare"], offers={"sources": ["trc2"]})
    offers = {"targets": {"cpu": {"devices": 1, "cores": 2, "memory_bytes": MEMORY}}}
    rows.seen("w", service="worker", version="1", queues=[], offers=offers)
    with TestClient(create_app(settings), raise_server_exceptions=False, headers=key_for(settings)) as client:
        yield client


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    corpus = tmp_path / "corpus"
    corpus.write_text("text" * 16_000)
    checkpoint = write_checkpoint_headers(tmp_path / "base")
    return {
        "dataset": {"uri": str(corpus), "max_sequence_length": 64},
        "base_checkpoint": {"uri": checkpoint.as_uri()},
        "target": {"kind": "cpu"},
        "training": {"max_steps": 10},
    }


def test_a_plan_says_what_would_happen_and_writes_nothing(client: TestClient, job: dict[str, Any]) -> None:
    response = client.post("/jobs/plan", json=job)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["object"] == "job.plan"
    assert body["spec"]["training"]["batch_size"] == 8
    assert [stage["name"] for stage in body["stages"]] == ["prepare", "convert", "train", "evaluate", "export"]
    (target,) = body["targets"]
    assert (target["kind"], target["fits"], target["micro_batch_size"]) == ("cpu", True, 8)
    assert target["memory"]["available"] == MEMORY
    assert "calibration table" in target["time"]["basis"]
    assert body["work"]["steps"] == 10
    assert body["warnings"] == []
    assert client.get("/jobs").json()["data"] == []


def test_a_plan_shows_what_a_dataset_s_preset_stands_for(client: TestClient, job: dict[str, Any]) -> None:
    def asked(**dataset: Any) -> Any:
        return client.post("/jobs/plan", json={**job, "dataset": {**job["dataset"], **dataset}})

    shown = asked(preset="reference").json()["spec"]["dataset"]
    assert (shown["cleaning"][0], shown["cleaning"][-1]) == ("strip_closing_tags", "fix_text")
    assert (shown["reading"]["documents"], shown["validation"]["order"]) == ("shard", "last")
    assert asked().json()["plan_hash"] != asked(preset="reference").json()["plan_hash"]
    refused = asked(cleaning=["strip_brackets"])
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["field"] == "dataset.cleaning"
    assert "drop_invalid_utf8" in error["message"]


def test_a_dry_run_is_the_plan_and_writes_nothing(client: TestClient, job: dict[str, Any]) -> None:
    response = client.post("/jobs", params={"dry_run": True}, json=job)
    assert response.status_code == 200, response.text
    assert response.json() == client.post("/jobs/plan", json=job).json()
    assert "location" not in response.headers
    assert client.get("/jobs").json()["data"] == []
    refused = client.post("/jobs", params={"dry_run": True}, json={**job, "target": {"kind": "gpu"}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "target.kind"


def test_a_pinned_plan_creates_this_job_or_none(client: TestClient, job: dict[str, Any]) -> None:
    pinned = {"plan_hash": client.post("/jobs/plan", json=job).json()["plan_hash"]}
    assert client.post("/jobs", params=pinned, json=job).status_code == 202
    for change in ({"training": {"max_steps": 11}}, {"name": "another"}):
        response = client.post("/jobs", params=pinned, json={**job, **change})
        assert (response.status_code, response.json()["code"]) == (409, "plan_changed")
        assert response.headers["content-type"] == "application/problem+json"
    later = Path(job["dataset"]["uri"]).stat().st_mtime + 60
    os.utime(job["dataset"]["uri"], (later, later))
    assert client.post("/jobs", params=pinned, json=job).status_code == 409
    assert len(client.get("/jobs").json()["data"]) == 1


def test_warnings_come_with_the_plan_and_with_the_job(client: TestClient, job: dict[str, Any]) -> None:
    job["training"] = {"max_steps": 300, "learning_rate": 0.5}
    planned = client.post("/jobs/plan", json=job).json()["warnings"]
    assert [("times" in warning, "learning rate" in warning) for warning in planned] == [(True, False), (False, True)]
    assert client.post("/jobs", json=job).json()["warnings"] == planned


def test_what_fits_nowhere_is_refused_and_the_plan_says_why(client: TestClient, job: dict[str, Any]) -> None:
    folder = Path(job["base_checkpoint"]["uri"].removeprefix("file://"))
    write_checkpoint_headers(folder, config=CONFIG | {"n_positions": 65536})
    job["dataset"]["max_sequence_length"] = 65536
    job["training"] = {"max_steps": 1, "batch_size": 512}
    engine_memory = client.post("/jobs/plan", json=job).json()["targets"][0]
    assert engine_memory["fits"] is True, "in smaller parts"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")  # of which only the config is looked at
    (folder / "config.json").write_text(json.dumps(CONFIG | {"n_embd": 4096, "n_layer": 28, "n_head": 16}))
    job["dataset"]["max_sequence_length"] = 64
    response = client.post("/jobs", json=job)
    assert response.status_code == 422, response.text
    assert response.json()["code"] == "does_not_fit"
    (fault,) = response.json()["errors"]
    assert (fault["field"], fault["value"]) == ("target.kind", "cpu")
    assert "the largest on offer has 16.0 GB" in fault["message"]
    assert fault["remedy"]
    (target,) = client.post("/jobs/plan", json=job).json()["targets"]
    assert (target["fits"], target["micro_batch_size"]) == (False, None)
    assert client.get("/jobs").json()["data"] == []


def test_finished_trainings_take_the_place_of_the_table(
    client: TestClient, job: dict[str, Any], engine: Engine
) -> None:
    run = spec(dataset={"uri": "/c", "max_sequence_length": 64}, base_checkpoint={"uri": "/b"})
    finish(engine, run, rates=(100.0, 120.0, 5000.0), parameters=30_000)
    finish(engine, run, rates=(), parameters=30_000)
    (found,) = finished_trainings(engine)
    assert (found.tokens_per_second, found.parameters, found.length) == (120.0, 30_000, 64)
    plan = client.post("/jobs/plan", json=job).json()
    time, parameters = plan["targets"][0]["time"], plan["work"]["parameters"]
    assert time["basis"] == "1 finished run(s) of similar shape"
    assert time["tokens_per_second"] == pytest.approx(120 * 30_000 / parameters, abs=0.1)


def finish(engine: Engine, job: Any, *, rates: tuple[float, ...], parameters: int) -> None:
    """A job as it is in the store once its training has ended."""
    job_id = Jobs(engine).create(job).id
    with Session(engine) as session, session.begin():
        for name, result in ((StageName.CONVERT, {"parameters": parameters}), (StageName.TRAIN, {})):
            stage = session.get_one(Stage, f"{job_id}.{name}")
            stage.status, stage.result = StageStatus.SUCCEEDED, result
        session.add_all(
            Metric(job_id=job_id, stage=StageName.TRAIN, name="tokens_per_second", step=n, value=rate, epoch=1)
            for n, rate in enumerate(rates)
        )


@pytest.fixture
def command(settings: Settings, client: TestClient) -> Iterator[Callable[..., Result]]:
    """`regraft`, with an API to talk to."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    key = client.headers["Authorization"].removeprefix("Bearer ")
    environment = {"REGRAFT_API_URL": f"http://127.0.0.1:{port}", "REGRAFT_API_KEY": key}
    try:
        eventually(lambda: server.started, what="the server")
        yield lambda *words: CliRunner().invoke(make_app(), [str(word) for word in words], env=environment)
    finally:
        server.should_exit = True
        thread.join()


def test_the_command_line_plans_tries_and_pins(
    command: Callable[..., Result], client: TestClient, job: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    planned = command("plan", file).output
    tried = command("jobs", "submit", file, "--dry-run")
    assert (tried.exit_code, tried.output) == (0, planned)
    assert client.get("/jobs").json()["data"] == []
    pinned = ("jobs", "submit", file, "--plan-hash", planned.split()[1])
    done = command(*pinned, "--json")
    assert client.get("/jobs").json()["data"][0]["id"] == json.loads(done.stdout)["id"]
    file.write_text(json.dumps({**job, "name": "another"}))
    refused = command(*pinned)
    assert isinstance(refused.exception, ApiError)
    assert refused.exception.reason == "plan_changed"
    assert len(client.get("/jobs").json()["data"]) == 1
