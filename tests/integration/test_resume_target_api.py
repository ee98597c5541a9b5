"""`POST /jobs/{id}/resume` with another target: what is refused, and where the job waits then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from helpers import key_for, spec
from regraft.jobstore import Leases, Workers
from regraft.settings import Settings
from regraft_api.app import create_app

OFFERS: dict[str, Any] = {
    "cpu": {"available": True, "devices": 2},
    "gpu": {"available": True, "devices": 1, "bf16": False},
    "cerebras": {"available": True, "devices": 1, "release": "2.10", "systems": 4},
}


@pytest.fixture
def client(settings: Settings, engine: Engine) -> Iterator[TestClient]:
    Workers(engine).seen("w", service="worker", version="1", queues=["train.cpu"], offers={"targets": OFFERS})
    app = create_app(settings.model_copy(update={"check_files": False}))
    with TestClient(app, headers=key_for(settings)) as client:
        yield client


def paused(client: TestClient, **fields: Any) -> str:
    job = spec().model_dump(mode="json", by_alias=True) | fields
    job_id = str(client.post("/jobs", json=job).json()["id"])
    assert client.post(f"/jobs/{job_id}/pause").json()["status"] == "paused"
    return job_id


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({"kind": "tpu"}, "target.kind"),
        ({"kind": "gpu", "devices": 2}, "target.devices"),
        ({"kind": "gpu", "strategy": "single", "devices": 8}, "target"),
        ({"kind": "cerebras", "release": "2.4"}, "target.release"),
        ({"kind": "cerebras", "num_csx": 5}, "target.num_csx"),
        ({"kind": "cerebras", "evaluate_on": "tpu"}, "target.evaluate_on"),
        ({"kind": "cerebras", "releese": "2.4"}, "target.releese"),
        ({"kind": "cpu", "num_csx": 2}, "target.num_csx"),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_field(target: dict[str, Any], field: str, client: TestClient) -> None:
    job_id = paused(client)
    answer = client.post(f"/jobs/{job_id}/resume", json={"target": target})
    assert answer.status_code == 422, answer.json()
    (fault,) = answer.json()["errors"]
    assert fault["field"] == field
    assert client.get(f"/jobs/{job_id}").json()["status"] == "paused"


INEXPRESSIBLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"batch_size": 7}, {"num_csx": 2}, "target.num_csx"),
    ({"early_stopping": {}, "evaluate": {"every_steps": 1000}}, {}, "training.early_stopping"),
    ({"loss_spike": {"policy": "roll_back"}}, {}, "training.loss_spike.policy"),
    ({"optimizer": {"name": "adamw_torch"}}, {}, "training.optimizer.name"),
    ({"precision": "fp32"}, {"fp16_type": "cbfloat16"}, "target.fp16_type"),
    ({"evaluate": {"every_steps": 7}, "checkpoint": {"every_steps": 5}}, {}, "training.evaluate.every_steps"),
]


@pytest.mark.parametrize(("training", "target", "field"), INEXPRESSIBLE)
@pytest.mark.parametrize("way", ["jobs", "plan", "resume"])
def test_what_a_cluster_cannot_be_told_is_refused_before_anything_starts(
    way: str, training: dict[str, Any], target: dict[str, Any], field: str, client: TestClient
) -> None:
    there = {"target": {"kind": "cerebras", **target}}
    job = spec().model_dump(mode="json", by_alias=True) | {"training": {"max_steps": 3, **training}}
    if way == "resume":
        answer = client.post(f"/jobs/{paused(client, **job)}/resume", json=there)
    else:
        answer = client.post("/jobs" if way == "jobs" else "/jobs/plan", json=job | there)
    assert answer.status_code == 422, answer.json()
    (fault,) = answer.json()["errors"]
    assert (fault["field"], answer.json()["code"]) == (field, "not_expressible_in_cs")


@pytest.mark.parametrize(("release", "status"), [("1.9", 422), ("2.10", 202)])
def test_the_site_s_release_decides_where_the_job_names_none(
    release: str, status: int, client: TestClient, engine: Engine
) -> None:
    offers = OFFERS | {"cerebras": {**OFFERS["cerebras"], "release": release}}
    Workers(engine).seen("w", service="worker", version="1", queues=["train.cpu"], offers={"targets": offers})
    job = spec().model_dump(mode="json", by_alias=True)
    answer = client.post("/jobs", json=job | {"target": {"kind": "cerebras", "precision_opt_level": 1}})
    assert answer.status_code == status, answer.json()
    assert status == 202 or answer.json()["errors"][0]["field"] == "target.precision_opt_level"


def test_a_precision_that_the_new_target_lacks_is_refused(client: TestClient) -> None:
    job_id = paused(client, training={"max_steps": 3, "precision": "bf16"})
    answer = client.post(f"/jobs/{job_id}/resume", json={"target": {"kind": "gpu"}})
    assert answer.json()["errors"][0]["field"] == "training.precision"


def test_the_job_waits_in_the_queues_of_its_new_target(client: TestClient, engine: Engine, settings: Settings) -> None:
    job_id = paused(client)
    moved = client.post(f"/jobs/{job_id}/resume", json={"target": {"kind": "cerebras", "num_csx": 2}}).json()
    assert (moved["status"], moved["spec"]["target"]["kind"], moved["version"]) == ("queued", "cerebras", 2)
    leases = Leases(engine, settings)
    for name in ("prepare", "convert"):
        claim = leases.claim(f"{job_id}.{name}", worker="w")
        assert claim is not None
    events = client.get(f"/jobs/{job_id}/events").json()["data"]
    assert any("moves from cpu to cerebras" in event["message"] for event in events)
    assert client.post(f"/jobs/{job_id}/resume", json={"target": {"kind": "cpu"}}).status_code == 409


def test_a_resume_without_a_body_is_as_before(client: TestClient) -> None:
    for body in (None, {}, {"target": None}):
        job_id = paused(client)
        answer = (
            client.post(f"/jobs/{job_id}/resume", json=body)
            if body is not None
            else client.post(f"/jobs/{job_id}/resume")
        )
        assert (answer.status_code, answer.json()["spec"]["target"]["kind"]) == (202, "cpu")
