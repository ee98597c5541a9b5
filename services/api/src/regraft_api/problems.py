"""Errors as RFC 9457 problem details: a stable `type`, and for each fault its place, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from regraft.errors import ConflictError, NotFoundError, RegraftError
from regraft.jobs import ReasonClass
from regraft.jobstore import UNREACHABLE, VersionError
from regraft.jobstore.creation import IN_FLIGHT
from regraft.specs import JobSpec
from regraft.specs.target import without_tags
from regraft_api.schemas import Fault, Problem

MEDIA_TYPE = "application/problem+json"
HTTP_CODES = {400: "unreadable_request", 404: "not_found", 405: "method_not_allowed"}
SHOWN_VALUE = 200  # characters of a refused value that are sent back


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RegraftError, _refused)
    app.add_exception_handler(HTTPException, _http)
    for away in UNREACHABLE:
        app.add_exception_handler(away, _unavailable)
    app.add_exception_handler(Exception, _fault_of_ours)


def problem(
    status: int,
    code: str,
    title: str,
    *,
    detail: str = "",
    errors: Sequence[Fault] = (),
    instance: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem response."""
    body = Problem(
        type=f"urn:regraft:problem:{code.replace('_', '-')}",
        title=title,
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        errors=list(errors),
    )
    return JSONResponse(body.model_dump(mode="json"), status_code=status, media_type=MEDIA_TYPE, headers=headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(entry) for entry in error.errors()]
    detail = "; ".join(f"{fault.field}: {fault.message}" if fault.field else fault.message for fault in faults)
    return problem(
        422, "invalid_request", "The request is not valid", detail=detail, errors=faults, instance=request.url.path
    )


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RegraftError)
    if isinstance(error, NotFoundError):
        status, title = 404, "There is no such thing"
    elif isinstance(error, ConflictError):
        status, title = 409, "The state does not allow this"
    elif isinstance(error, VersionError):
        status, title = 412, "It has been changed in between"
    elif error.reason_class is ReasonClass.LIMIT:
        status, title = 429, "A limit is reached"
    else:
        status, title = 422, "The request cannot be carried out as it stands"
    faults = [_named(request, error)] if error.field else []
    headers = {"Retry-After": "5"} if status == 429 or error.reason == IN_FLIGHT else None
    path = request.url.path
    return problem(status, error.reason, title, detail=str(error), errors=faults, instance=path, headers=headers)


def _named(request: Request, error: RegraftError) -> Fault:
    """The field that one of our own errors names: of the route's parameters and headers, else of the body."""
    kind, names = "body", error.field.split(".")
    route = request.scope.get("route")
    if error.field in request.path_params:
        kind = "path"
    elif isinstance(route, APIRoute):
        declared = {"query": route.dependant.query_params, "header": route.dependant.header_params}
        found = [kind for kind, fields in declared.items() if error.field in {field.alias for field in fields}]
        kind = found[0] if found else kind
    where = _place(kind, names)
    return Fault(**where, field=error.field, message=error.message, value=_shown(error.value), remedy=error.remedy)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(error.status_code, "http_error")
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, code, str(error.detail), instance=request.url.path, headers=headers)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return unavailable(request.url.path)


def unavailable(path: str) -> JSONResponse:
    """The database is away, or its answer was lost: then nobody here knows whether the request was carried out."""
    detail = (
        "The database does not answer; what was asked for may have been done all the same. Ask again in a moment, for "
        "a new job with the same Idempotency-Key."
    )
    return problem(503, "unavailable", "Not available", detail=detail, instance=path, headers={"Retry-After": "5"})


async def _fault_of_ours(request: Request, error: Exception) -> JSONResponse:
    # The server logs the traceback; a user gets none.
    detail = "The server made a mistake; its log has the details."
    return problem(500, "internal_error", "Internal error", detail=detail, instance=request.url.path)


def faults_of(error: ValidationError, where: Sequence[str]) -> RequestValidationError:
    """What pydantic found in a part of a request that was put together from several, to be told like the rest."""
    found = error.errors(include_url=False, include_context=False)
    return RequestValidationError([{**entry, "loc": (*where, *entry["loc"])} for entry in found])


def _fault(entry: dict[str, Any]) -> Fault:
    """One of pydantic's errors, in words of ours where its own do not name a remedy."""
    where = _location(entry["loc"])
    message = str(entry["msg"]).removeprefix("Value error, ")
    value = entry.get("input")
    remedy = ""
    if entry["type"] == "extra_forbidden":
        message, remedy = "unknown field", _known_fields(where)
    elif entry["type"] == "missing":
        message, value, remedy = "is required", None, f"Add {where[-1]}." if where else ""
    elif entry["type"] == "json_invalid":
        where, message, value = [], f"the body is not JSON: {entry.get('ctx', {}).get('error', '')}", None
    elif entry["type"].startswith(("greater", "less", "string", "too_", "literal", "int", "float", "bool")):
        remedy = message.replace("Input should be", "Use a value that is")
    place = _place(entry["loc"][0], where)
    field = ".".join(str(part) for part in where)
    return Fault(**place, field=field, message=message, value=_shown(value), remedy=remedy)


def _place(kind: int | str, where: Sequence[int | str]) -> dict[str, str]:
    """Where in a request something is wrong, `kind` being FastAPI's word for the part of it."""
    if kind == "header":
        return {"header": str(where[0])}
    if kind in ("path", "query"):
        return {"parameter": str(where[0])}
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in where)
    return {"pointer": "#" + "".join(f"/{part}" for part in parts)}


def _location(location: Sequence[int | str]) -> list[int | str]:
    """Pydantic's location without `body`, and without the tag of a union, which stands before the field it names."""
    parts = without_tags(location[1:])
    return [part for i, part in enumerate(parts) if not (i + 1 < len(parts) and part == parts[i + 1])]


def _known_fields(where: Sequence[int | str]) -> str:
    """The nearest field that does exist beside the unknown one, else all of them."""
    models: list[type[BaseModel]] = [JobSpec]
    for part in where[:-1]:
        fields = [model.model_fields[str(part)] for model in models if str(part) in model.model_fields]
        models = [found for field in fields for found in _models_in(field.annotation)]
    if not models:
        return "Remove it."
    known = list(dict.fromkeys(field.alias or name for model in models for name, field in model.model_fields.items()))
    close = difflib.get_close_matches(str(where[-1]), known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Remove it; the fields here are: {', '.join(known)}."


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """The model that a field holds, or those that it may hold."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) is Annotated:
        return _models_in(get_args(annotation)[0])
    return [found for part in get_args(annotation) for found in _models_in(part)] if _is_union(annotation) else []


def _is_union(annotation: object) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _shown(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_VALUE else text[:SHOWN_VALUE] + "..."
