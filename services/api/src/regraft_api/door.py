"""The lock on the door: who may come in, and how much may be carried.

It stands before everything else, so that a request without a key costs nothing and learns nothing: no route is looked
up, no body is read, and whether a thing exists is not told. What a request needs follows from its method and its path
alone; a route that is added is locked without anybody thinking of it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Histogram
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.jobstore import Keys, Principal
from regraft.jobstore import Scope as Needs
from regraft_api.problems import problem, unavailable

log = logging.getLogger("regraft.api.requests")

OPEN = re.compile(r"/|/healthz|/readyz|/openapi\.json|/docs|/docs/oauth2-redirect|/static-offline-docs/[^/]*")
ADMIN = re.compile(r"/keys(/.*)?")
REMEMBERED = 10_000  # keys
REMEMBER_SECONDS = 60.0


def needed(method: str, path: str) -> Needs | None:
    """The scope that a request needs; None: it needs no key."""
    if OPEN.fullmatch(path):
        return None
    if ADMIN.fullmatch(path):
        return Needs.ADMIN
    return Needs.READ if method in ("GET", "HEAD", "OPTIONS") else Needs.WRITE


class KeyRing:
    """Keys that were found lately, as long as this process hears of every one that is revoked (see `hub`)."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[str, tuple[Principal, float]] = {}
        self._listening = False
        self._changes = 0

    async def find(self, key: str) -> Principal | None:
        """Whose key it is."""
        principal, until = self._known.get(key, (None, 0.0))
        if principal is not None and self._listening and time.monotonic() < until:
            return principal
        changes = self._changes
        principal = await asyncio.to_thread(self._keys.find, key)
        if principal is not None and self._listening and changes == self._changes:  # else it may be revoked by now
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = (principal, time.monotonic() + REMEMBER_SECONDS)
        return principal

    def listening(self, listening: bool) -> None:
        """Called when a key was revoked, or when revocations begin or cease to be heard of."""
        self._listening = listening
        self._changes += 1
        self._known.clear()


class Door:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, ring: KeyRing, max_body_bytes: int, registry: CollectorRegistry) -> None:
        self._app = app
        self._ring = ring
        self._max = max_body_bytes
        self._seconds = Histogram(
            "regraft_http_request_seconds",
            "Time to the first byte of an answer.",
            ["method", "route", "status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            refusal = await self._refusal(scope)
        except SQLAlchemyError:
            refusal = unavailable(scope["path"])
        if refusal is not None:
            await refusal(scope, receive, noted)
            return
        await self._within_limit(scope, receive, noted)

    async def _refusal(self, scope: Scope) -> JSONResponse | None:
        needs = needed(scope["method"], scope["path"])
        if needs is None:
            return None
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        principal = await self._ring.find(key.strip()) if scheme.lower() == "bearer" else None
        if principal is None:
            return _unauthorised()
        if not principal.scope.allows(needs):
            return _forbidden(needs)
        scope.setdefault("state", {})["principal"] = principal
        length = headers.get("content-length", "0")
        return self._too_large() if length.isdecimal() and int(length) > self._max else None

    async def _within_limit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body without a stated length is counted as it comes."""
        read, started = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max:
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLargeError:
            if not started:
                await self._too_large()(scope, receive, send)

    def _too_large(self) -> JSONResponse:
        detail = f"The body may have {self._max:,} bytes."
        return problem(413, "body_too_large", "The body is too large", detail=detail)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "")
        self._seconds.labels(scope["method"], route, str(status)).observe(seconds)
        principal = scope.get("state", {}).get("principal")
        fields: dict[str, Any] = {"method": scope["method"], "path": scope["path"], "status": status}
        fields |= {"milliseconds": round(seconds * 1000, 1), "key": getattr(principal, "key_id", None)}
        log.info("%s %s %d", scope["method"], scope["path"], status, extra={"fields": fields})


class _TooLargeError(BaseException):
    """Passes through the application's own handlers, which know nothing of it."""


def _unauthorised() -> JSONResponse:
    detail = "Send `Authorization: Bearer <key>` with a key that `regraft keys create` has made."
    headers = {"WWW-Authenticate": 'Bearer realm="regraft"'}
    return problem(401, "unauthorized", "A valid key is needed", detail=detail, headers=headers)


def _forbidden(needs: Needs) -> JSONResponse:
    detail = f"This request needs a key of the scope {needs}."
    headers = {"WWW-Authenticate": f'Bearer realm="regraft", error="insufficient_scope", scope="{needs}"'}
    return problem(403, "insufficient_scope", "The key does not allow this", detail=detail, headers=headers)
