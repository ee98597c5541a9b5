"""Bodies as strict JSON: what the standard leaves open, or Python allows beyond it, is refused before it is validated.

Refused are NaN and Infinity (no answer could hold them), a name that is there twice (which one counts?), the character
U+0000 and lone surrogates (no database text holds them), and nesting that only an attack needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

MAX_DEPTH = 32
MAX_DIGITS = 300


class StrictRoute(APIRoute):
    """A route whose body is read by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's own, with another `Request.json`."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        """The body."""
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """The value that a body holds.

    Raises:
        JSONDecodeError: it is not strict JSON.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twice, parse_int=_no_giant)
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("the body is not UTF-8", "", error.start) from error
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise json.JSONDecodeError(str(error), "", 0) from error
    _check(value, 0)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _no_giant(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:100]!r} is there twice")
    return value


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise json.JSONDecodeError("nested too deeply", "", 0)
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise json.JSONDecodeError("a number is too large", "", 0)
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)


def _check_text(text: str) -> None:
    if not text.isascii() or "\0" in text:
        if "\0" in text:
            raise json.JSONDecodeError("a string holds the character U+0000", "", 0)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise json.JSONDecodeError("a string holds half of a surrogate pair", "", 0) from error
