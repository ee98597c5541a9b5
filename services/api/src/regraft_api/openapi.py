"""The API's own description: what FastAPI finds, and what is the same for every operation.

Which key an operation needs is taken from the door itself, so what is written is what happens. Every error has one
form. The result is checked in as `services/api/openapi.json`; a test compares.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from regraft_api.answer_headers import headers_of
from regraft_api.answers import answers
from regraft_api.door import needed
from regraft_api.problems import MEDIA_TYPE
from regraft_api.schemas import Problem

METHODS = ("get", "post", "put", "patch", "delete")
SCHEME = "key"
COMMON = {
    "401": "No valid key was sent",
    "403": "The key's scope does not allow this",
    "503": "The database is away; the request may have been carried out all the same",
}
WITH_BODY = {"400": "The body cannot be read", "413": "The body is too large"}
INVALID = "The request is refused; each fault names its place, value and remedy"
EXAMPLE = {
    "type": "urn:regraft:problem:target-not-available",
    "title": "The request cannot be carried out as it stands",
    "status": 422,
    "detail": "target.kind: no running worker offers this target (got 'gpu'). Available now: cpu.",
    "instance": "/jobs",
    "code": "target_not_available",
    "errors": [
        {
            "pointer": "#/target/kind",
            "field": "target.kind",
            "message": "no running worker offers this target",
            "value": "gpu",
            "remedy": "Available now: cpu. Or start a worker on such hardware.",
        }
    ],
}


def describe(app: FastAPI) -> None:
    """Make `/openapi.json` say all of it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way of replacing it


def _described(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= problem.pop("$defs") | {"Problem": problem | {"examples": [EXAMPLE]}}
    for name, example in answers().items():
        components["schemas"][name]["examples"] = [example]
    components["securitySchemes"] = {
        SCHEME: {"type": "http", "scheme": "bearer", "description": "A key made by `regraft keys create`."}
    }
    for path, item in schema["paths"].items():
        for method in METHODS:
            if method in item:
                _complete(item[method], method, path)
    return schema


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    needs = needed(method.upper(), re.sub(r"\{[^}]*\}", "x", path))
    responses = operation["responses"]
    if needs is not None:
        operation["security"] = [{SCHEME: [str(needs)]}]
        operation["x-scope"] = str(needs)
        more = COMMON | (WITH_BODY if method in ("post", "patch", "delete") else {})
        for status, text in more.items():
            responses.setdefault(status, {"description": text})
        if "parameters" in operation or "requestBody" in operation:
            responses["422"] = {"description": INVALID}
        else:
            responses.pop("422", None)
    for status, response in responses.items():
        if (status[0] in "45" and status != "503") or (status == "503" and needs is not None):
            response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        if (needs is not None or status[0] == "2") and (headers := headers_of(operation["operationId"], status)):
            response["headers"] = headers
    operation["responses"] = dict(sorted(responses.items()))
