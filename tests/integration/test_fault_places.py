"""Every refusal that is about a field says where in the request the field is: body, path, query or header."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from helpers import key_for, spec
from regraft.settings import Settings
from regraft_api.app import create_app

JOB = spec().model_dump(mode="json", by_alias=True)
FAULTS: dict[str, tuple[tuple[Any, ...], dict[str, Any], int, dict[str, str]]] = {
    "query, by its form": (("GET", "/jobs"), {"params": {"limit": 0}}, 422, {"parameter": "limit"}),
    "query, one of several": (("GET", "/jobs"), {"params": {"label": "x"}}, 422, {"parameter": "label"}),
    "query, by the store": (("GET", "/jobs"), {"params": {"after": "none"}}, 422, {"parameter": "after"}),
    "query, a conflict": (
        ("POST", "/jobs"),
        {"json": JOB, "params": {"plan_hash": "0" * 64}},
        409,
        {"parameter": "plan_hash"},
    ),
    "path": (("GET", "/jobs/none"), {}, 404, {"parameter": "job_id"}),
    "path, by its form": (("GET", "/jobs/a b"), {}, 422, {"parameter": "job_id"}),
    "header, by its form": (
        ("POST", "/jobs"),
        {"json": JOB, "headers": {"Idempotency-Key": "a b"}},
        422,
        {"header": "Idempotency-Key"},
    ),
    "header, by the store": (
        ("PATCH", "/jobs/ID"),
        {"json": {"labels": {}}, "headers": {"If-Match": '"v9"'}},
        412,
        {"header": "If-Match"},
    ),
    "body": (
        ("POST", "/jobs"),
        {"json": {**JOB, "target": {"kind": "cpu", "devices": 0}}},
        422,
        {"pointer": "#/target/devices"},
    ),
    "body, a name with a slash": (
        ("POST", "/jobs"),
        {"json": {**JOB, "labels": {"a/~b": 1}}},
        422,
        {"pointer": "#/labels/a~1~0b"},
    ),
}


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"check_files": False}))
    with TestClient(app, raise_server_exceptions=False, headers=key_for(settings)) as client:
        yield client


@pytest.mark.parametrize("case", FAULTS)
def test_whatever_is_wrong_its_place_in_the_request_is_named(client: TestClient, case: str) -> None:
    (method, path), sent, status, place = FAULTS[case]
    job_id = client.post("/jobs", json=JOB).json()["id"]
    answer = client.request(method, path.replace("ID", job_id), **sent)
    assert answer.status_code == status, answer.text
    (found,) = answer.json()["errors"]
    assert {name: found[name] for name in ("pointer", "parameter", "header") if name in found} == place
    assert found["field"].split(".")[0] == next(iter(place.values())).removeprefix("#/").split("/")[0]
    assert "value" in found and found["message"]
