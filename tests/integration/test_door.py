"""The lock on the door: who comes in, and with what."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from helpers import eventually, key_for, spec
from regraft.errors import InvalidInputError
from regraft.jobstore import Jobs, Keys, Scope
from regraft.keyfile import is_loopback
from regraft.settings import Settings
from regraft_api import door
from regraft_api.app import create_app
from regraft_api.door import needed

SCHEMA = json.loads((Path(__file__).parents[2] / "services/api/openapi.json").read_text())
OPERATIONS = [
    (method.upper(), path, operation) for path, item in SCHEMA["paths"].items() for method, operation in item.items()
]
OPEN = {"healthz", "readyz"}
BELOW = {"write": Scope.READ, "admin": Scope.WRITE}


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_the_api_listens_on_loopback_unless_told() -> None:
    assert is_loopback(Settings.model_fields["api_host"].default)
    assert not is_loopback("0.0.0.0")


def filled(path: str, job_id: str) -> str:
    values = {"job_id": job_id, "stage": "train", "attempt": "1", "checkpoint_id": "x", "path": "config.json"}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    return path.replace("{key_id}", "x")


def test_every_operation_refuses_whoever_has_no_key_or_a_wrong_one(
    client: TestClient, engine: Engine, settings: Settings
) -> None:
    job_id = Jobs(engine).create(spec()).id
    revoked, key = Keys(engine).create(name="", scope=Scope.ADMIN)
    Keys(engine).revoke(revoked.id)
    good = key_for(settings)["Authorization"]
    wrong = good[:-1] + ("a" if good[-1] != "a" else "b")
    sent = [{}, *({"Authorization": value} for value in (wrong, f"Bearer {key}", "Bearer", "Basic eDp5", "Bearer é"))]
    for method, path, operation in OPERATIONS:
        if operation["operationId"] not in OPEN:
            check_refused(client, method, filled(path, job_id), sent)
    assert Jobs(engine).get(job_id).status == "queued"


def check_refused(client: TestClient, method: str, path: str, sent: Sequence[Mapping[str, str]]) -> None:
    """Whatever of these headers comes with a request, it is refused and told nothing."""
    answers = set()
    for headers in sent:
        # A body that cannot be read, and one that is too large: neither is looked at.
        raw = {name: value.encode() for name, value in headers.items()}
        response = client.request(method, path, headers=raw, content=b"{" * 2_000_000)
        assert response.status_code == 401, (method, path, headers)
        assert response.headers["www-authenticate"].startswith("Bearer")
        answers.add(response.text)
    assert len(answers) == 1, "nothing is told of what is behind the door"


def test_a_route_that_answers_without_a_key_is_caught(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    check_refused(client, "GET", "/queue", [{}])
    monkeypatch.setattr(door, "OPEN", re.compile(f"{door.OPEN.pattern}|/queue"))
    with pytest.raises(AssertionError):
        check_refused(client, "GET", "/queue", [{}])


def test_every_operation_refuses_a_key_whose_scope_is_too_small(
    client: TestClient, engine: Engine, settings: Settings
) -> None:
    job_id = Jobs(engine).create(spec()).id
    keys = {scope: key_for(settings, scope) for scope in Scope}
    found = []
    for method, path, operation in OPERATIONS:
        below = BELOW.get(operation.get("x-scope", ""))
        if below is not None:
            response = client.request(method, filled(path, job_id), headers=keys[below], content=b"{")
            assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope"), (method, path)
            found.append(operation["operationId"])
    assert {"createJob", "cancelJob", "updateJob", "promoteJobCheckpoint", "createKey", "listKeys"} <= set(found)
    assert Jobs(engine).get(job_id).status == "queued"


def test_what_nobody_has_thought_of_is_locked() -> None:
    assert needed("GET", "/jobs/x/something/new") is Scope.READ
    assert needed("DELETE", "/nothing") is Scope.WRITE
    assert needed("GET", "/docs/../jobs") is Scope.READ
    assert needed("GET", "/keys/") is Scope.ADMIN


def test_of_a_key_only_a_digest_is_kept(engine: Engine) -> None:
    _, key = Keys(engine).create(name="mine", scope=Scope.READ)
    with engine.connect() as connection:
        row = str(connection.execute(text("SELECT to_jsonb(k) FROM api_keys k")).scalar_one())
    assert key not in row
    assert key.rpartition("_")[2] not in row


def test_a_revoked_key_opens_nothing_any_more_although_it_was_remembered(client: TestClient, engine: Engine) -> None:
    row, key = Keys(engine).create(name="", scope=Scope.READ)
    headers = {"Authorization": f"Bearer {key}"}
    assert all(client.get("/jobs", headers=headers).status_code == 200 for _ in range(3))
    Keys(engine).revoke(row.id)
    eventually(lambda: client.get("/jobs", headers=headers).status_code == 401, seconds=5, what="the revocation")


def test_an_expired_key_opens_nothing(client: TestClient, engine: Engine) -> None:
    _, key = Keys(engine).create(name="", scope=Scope.READ)
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET expires_at = now() - interval '1 second'"))
    assert client.get("/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 401


def test_another_projects_jobs_are_not_there(client: TestClient, engine: Engine, settings: Settings) -> None:
    job_id = Jobs(engine).create(spec()).id
    theirs = key_for(settings, project="theirs")
    for method, path, operation in OPERATIONS:
        if "{job_id}" not in path:
            continue
        body = {"json": {}} if "requestBody" in operation else {}
        there = client.request(method, filled(path, job_id), headers=theirs, **body)
        nowhere = client.request(method, filled(path, "job-none"), headers=theirs, **body)
        assert there.status_code == nowhere.status_code == 404, (method, path, there.text)
        assert there.text.replace(job_id, "job-none") == nowhere.text
    assert client.get("/jobs", headers=theirs).json()["data"] == []
    assert client.get("/queue", headers=theirs).json()["data"] == []
    assert Jobs(engine).get(job_id).status == "queued"


@pytest.mark.parametrize("stated", [True, False])
def test_a_body_that_is_too_large_is_refused(client: TestClient, settings: Settings, stated: bool) -> None:
    headers = {**key_for(settings), "content-type": "application/json"}
    large = b'{"name": "' + b"x" * settings.max_body_bytes + b'"}'

    def pieces() -> Iterator[bytes]:
        yield from (large[at : at + 65536] for at in range(0, len(large), 65536))

    response = client.post("/jobs", content=large if stated else pieces(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


BROKEN = {
    "deep": b'{"name": ' + b"[" * 100_000,
    "deep and whole": b'{"name": ' + b"[" * 500 + b"]" * 500 + b"}",
    "not a number": b'{"training": {"learning_rate": NaN}}',
    "infinite": b'{"training": {"learning_rate": -Infinity}}',
    "too large a number": b'{"training": {"learning_rate": 1e999}}',
    "too long a number": b'{"training": {"max_steps": ' + b"9" * 5000 + b"}}",
    "twice": b'{"name": "a", "name": "b"}',
    "null character": b'{"name": "a\\u0000b"}',
    "half a pair": b'{"name": "\\ud800"}',
    "null in a name": b'{"labels": {"a\\u0000": "b"}}',
    "not UTF-8": b'{"name": "\xff"}',
    "not JSON": b"{",
    "nothing": b"",
    "a list": b"[]",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_body_that_is_not_strict_json_is_refused(client: TestClient, settings: Settings, case: str) -> None:
    headers = {**key_for(settings), "content-type": "application/json"}
    response = client.post("/jobs", content=BROKEN[case], headers=headers)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"]


def test_giant_numbers_in_fields_and_cursors_are_refused(client: TestClient, settings: Settings) -> None:
    headers = key_for(settings)
    job = spec().model_dump(mode="json", by_alias=True)
    job["training"]["seed"] = 2**70
    assert client.post("/jobs", json=job, headers=headers).status_code == 422
    assert client.get("/jobs/x/events", params={"after": 2**63}, headers=headers).status_code == 422
    assert client.get("/jobs/x/metrics", params={"after": f"{2**70}.train.x"}, headers=headers).status_code == 422
    assert client.get("/jobs/%00", headers=headers).status_code == 422


def place(tmp_path: Path, case: str) -> str:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "corpus").write_text("x")
    (inside / "link").symlink_to(outside / "corpus")
    (inside / "folder").mkdir()
    (inside / "folder" / "deep").symlink_to(outside)
    return {
        "inside": str(inside / "corpus"),
        "outside": str(outside / "corpus"),
        "dots": f"{inside}/../outside/corpus",
        "dots in a URI": f"file://{inside}/%2e%2e/outside/corpus",
        "link": str(inside / "link"),
        "link in a folder": str(inside / "folder"),
        "pattern over links": f"{inside}/l*",
        "pattern that climbs": f"{inside}/*/../../outside/*",
        "name that begins alike": f"{inside}side/corpus",
        "host": "file://elsewhere/x",
        "http": "http://169.254.169.254/latest",
        "s3": "s3://bucket/key",
    }[case]


@pytest.mark.parametrize("field", ["dataset", "base_checkpoint", "tokenizer"])
@pytest.mark.parametrize(
    "case",
    [
        *("outside", "dots", "dots in a URI", "link", "link in a folder", "pattern over links"),
        *("pattern that climbs", "name that begins alike", "host", "http", "s3"),
    ],
)
def test_a_job_may_name_only_what_lies_in_allowed_folders(
    settings: Settings, tmp_path: Path, case: str, field: str
) -> None:
    from regraft.allowed import check_uris

    limited = settings.model_copy(update={"allowed_roots": f" {tmp_path / 'inside'} ,{tmp_path / 'models'}"})
    uri = place(tmp_path, case)
    good = {"uri": str(tmp_path / "inside" / "corpus")}
    job = {"dataset": good, "base_checkpoint": {"uri": str(tmp_path / "models" / "base")}}
    check_uris(spec(**job), limited)
    tokenizer = {"dataset": {**good, "tokenizer": uri}}
    job |= tokenizer if field == "tokenizer" else {field: {"uri": uri}}
    with pytest.raises(InvalidInputError) as refused:
        check_uris(spec(**job), limited)
    assert refused.value.field.startswith(field.replace("tokenizer", "dataset.tokenizer"))
    assert refused.value.remedy


def test_without_allowed_folders_no_file_can_be_named(client: TestClient, settings: Settings) -> None:
    closed = settings.model_copy(update={"allowed_roots": ""})
    with TestClient(create_app(closed), headers=key_for(settings)) as client:
        response = client.post("/jobs", json=spec().model_dump(mode="json", by_alias=True))
    assert response.status_code == 422
    assert response.json()["code"] == "place_not_allowed"
    assert "REGRAFT_ALLOWED_ROOTS" in response.json()["errors"][0]["remedy"]


def test_every_thread_gets_its_answer_while_keys_are_looked_up(client: TestClient, settings: Settings) -> None:
    headers, found = key_for(settings), []
    threads = [
        threading.Thread(target=lambda: found.append(client.get("/jobs", headers=headers).status_code))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 20
