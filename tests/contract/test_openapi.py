"""The API's description: what is checked in is what is served, and what is served keeps to it whatever it is sent."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as bounds
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from helpers import key_for, spec
from regraft.jobstore import Jobs, Keys, Leases, Outcome, Report, Scope, make_engine
from regraft.settings import Settings
from regraft.storage import publish
from regraft_api.app import create_app
from regraft_api.problems import problem

FILE = Path(__file__).parents[2] / "services/api/openapi.json"
SCHEMA: dict[str, Any] = json.loads(FILE.read_text())
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, item in SCHEMA["paths"].items()
    for method, operation in item.items()
}
STREAMS = {"streamJobEvents"}  # asked for of a job that has ended, and that no other operation touches: so it ends
EXAMPLES = 25
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def test_what_is_checked_in_is_what_is_served() -> None:
    app = create_app(Settings(database_url="postgresql://nowhere/x", redis_url="redis://nowhere"))
    assert json.loads(json.dumps(app.openapi())) == SCHEMA, (
        f"The API has changed. If that is meant, write what it serves to {FILE}, and say so in the changelog."
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_described(name: str) -> None:
    path, method, operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    for parameter in operation.get("parameters", []):
        assert parameter["description"]
    if "requestBody" in operation:
        assert operation["requestBody"]["content"]["application/json"]["examples"]
    for status, response in operation["responses"].items():
        if status[0] in "45" and name != "readyz":
            assert list(response["content"]) == ["application/problem+json"], (path, method, status)
    if name.startswith("list"):
        page = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        fields = SCHEMA["components"]["schemas"][page]["properties"]
        assert {"object", "data", "has_more", "first_id", "last_id"} <= set(fields)
        assert {"after", "limit"} <= {parameter["name"] for parameter in operation["parameters"]}


def sent(operation: Mapping[str, Any]) -> list[str]:
    """Names of the schemas of an operation's successful answers; of a page, that of its items."""
    found = []
    for status, response in operation["responses"].items():
        reference = response.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref")
        if status[0] == "2" and reference is not None:
            name = str(reference.rpartition("/")[2])
            found.append(name.removeprefix("Page_").removesuffix("_") if name.startswith("Page_") else name)
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_has_an_example_that_is_one(name: str) -> None:
    for schema in sent(OPERATIONS[name][2]):
        whole = {"$ref": f"#/components/schemas/{schema}", "components": SCHEMA["components"]}
        (example,) = SCHEMA["components"]["schemas"][schema]["examples"]
        jsonschema.validate(example, whole)
        assert set(example) == set(SCHEMA["components"]["schemas"][schema]["properties"])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**example, next(iter(example)): {"planted": []}}, whole)


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation.get("operationId") for item in SCHEMA["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids) == len(OPERATIONS)
    assert all(re.fullmatch("[a-z][A-Za-z]+", str(name)) for name in ids)


@pytest.fixture(scope="module")
def deployment(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An API with a failed job, whose ids take the place of what nobody would guess, and a cancelled one."""
    import psycopg

    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE described TEMPLATE template_regraft")
    settings = Settings(
        home=tmp_path_factory.mktemp("described"),
        database_url=servers.postgres_url.replace("/regraft?", "/described?"),
        redis_url=servers.redis_url,
        allowed_roots="/",
        check_files=False,
    )
    engine = make_engine(settings)
    ids = {"job_id": Jobs(engine).create(spec(labels={"a": "b"})).id, **key_for(settings)}
    leases = Leases(engine, settings)
    claim = leases.claim(f"{ids['job_id']}.prepare", worker="w")
    assert claim is not None
    folder = settings.home / "storage" / "step-1"
    with publish(folder, kind="checkpoint") as draft:
        (draft.folder / "config.json").write_text("{}")
    point = {"name": "train_loss", "step": 1, "value": 2.0, "tokens_seen": 3}
    made = {"kind": "checkpoint", "uri": folder.as_uri(), "metadata": {"step": 1}}
    leases.report(claim, Report(metrics=[point], artifacts=[made]))
    log = settings.log_folder / ids["job_id"] / "prepare-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\n")
    leases.finish(claim, Outcome(status="failed", reason="x", message="y"))
    (checkpoint,) = Jobs(engine).artifacts(ids["job_id"], kinds=["checkpoint"], after=None, limit=1)[0]
    ids["ended_job_id"] = Jobs(engine).cancel(Jobs(engine).create(spec()).id).id
    ids["key_id"] = Keys(engine).create(name="spare", scope=Scope.READ)[0].id
    ids |= {"checkpoint_id": checkpoint.id, "path": "config.json", "stage": "prepare", "attempt": "1"}
    engine.dispose()
    ids["settings"] = settings.model_dump_json()
    yield ids


@pytest.fixture(scope="module")
def described(deployment: dict[str, str]) -> Iterator[Any]:
    yield schema_of(create_app(Settings.model_validate_json(deployment["settings"])))


def schema_of(app: FastAPI) -> Any:
    """The application and what it says of itself, as schemathesis sees them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schemathesis.openapi.from_asgi("/openapi.json", app)


def send_everything(operation: Any, key: str, known: Mapping[str, str], *, examples: int = EXAMPLES) -> None:
    """Send all sorts of requests, with `known` parts of the path; fails if an answer is not as described."""

    @given(case=operation.as_strategy())
    @bounds(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        case.path_parameters = {**(case.path_parameters or {}), **known}
        case.call_and_validate(headers={"Authorization": key}, checks=CHECKS)

    send()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "known"),
    # Of what is there only where the path names something.
    [
        (name, known)
        for name in sorted(OPERATIONS)
        for known in (True, False)
        if "{" in OPERATIONS[name][0] or not known
    ],
    ids=lambda part: part if isinstance(part, str) else "of what is there" if part else "of anything",
)
def test_whatever_is_sent_the_answer_is_as_described(
    described: Any, deployment: dict[str, str], name: str, known: bool
) -> None:
    path, method, _ = OPERATIONS[name]
    names = {part for part in deployment if f"{{{part}}}" in path}
    parts = {part: deployment[part] for part in names} if known else {}
    if known and name in STREAMS:
        parts["job_id"] = deployment["ended_job_id"]
    send_everything(described[path][method.upper()], deployment["Authorization"], parts)


LIES = {
    "outside the schema": JSONResponse({"targets": "none"}),
    "a status of its own": JSONResponse({}, status_code=418),
    "not JSON": PlainTextResponse("nothing"),
    "a fault": JSONResponse({}, status_code=500),
    "without its header": problem(401, "unauthorized", "No key"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_not_as_described_is_caught(deployment: dict[str, str], lie: str) -> None:
    app = create_app(Settings.model_validate_json(deployment["settings"]))

    async def answer(_: Request) -> Response:
        return LIES[lie]

    app.router.routes.insert(0, Route("/capabilities", answer))  # before the one that is described
    with pytest.raises(FailureGroup):
        send_everything(schema_of(app)["/capabilities"]["GET"], deployment["Authorization"], {}, examples=1)
