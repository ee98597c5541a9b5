"""One range of bytes, as a request asks for it (RFC 9110)."""

from __future__ import annotations

import re

from fastapi import Response

from regraft_api.problems import problem

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def is_range(asked: str | None) -> bool:
    """Whether a header asks for a range that we understand; any other is as good as none."""
    parts = _RANGE.fullmatch(asked.strip()) if asked else None
    return parts is not None and parts[1] + parts[2] != ""


def byte_range(asked: str | None, size: int) -> tuple[int, int]:
    """From where to where; a header that is none of ours is as good as none. Empty: there is nothing there."""
    parts = _RANGE.fullmatch(asked.strip()) if asked else None
    if parts is None or parts[1] + parts[2] == "":
        return 0, size
    if not parts[1]:
        return max(0, size - int(parts[2])), size
    return int(parts[1]), min(size, int(parts[2]) + 1 if parts[2] else size)


def nothing_there(size: int, what: str, *, oldest: int = 0) -> Response:
    """The answer to a range beyond the end, or before the oldest byte that is kept."""
    headers = {"Content-Range": f"bytes */{size}"}
    gone = f" Those before byte {oldest:,} are kept no more." if oldest else ""
    detail = f"The {what} has {size:,} bytes.{gone}"
    return problem(416, "range_not_satisfiable", "There is nothing at this range", detail=detail, headers=headers)
