"""`/jobs/{id}/logs`: what the stages printed, attempt by attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from regraft.attemptlogs import AttemptLog
from regraft.errors import NotFoundError
from regraft.jobs import StageName, StageStatus
from regraft_api.dependencies import Call, Caller, JobId
from regraft_api.ranges import byte_range, is_range, nothing_there
from regraft_api.routes.responses import NO_RANGE, NOT_FOUND
from regraft_api.schemas import Page
from regraft_api.schemas_fleet import LogLine

router = APIRouter(prefix="/jobs/{job_id}/logs", tags=["logs"], responses=NOT_FOUND)

LARGEST = 2**53
FOLLOW_SECONDS = 0.5
TEXT = "text/plain; charset=utf-8"
CONTENT = {TEXT: {"schema": {"type": "string"}}}
Stage = Annotated[StageName, InPath(description="Which stage")]
Attempt = Annotated[int | None, Query(ge=1, le=2**31, description="Which attempt; the newest if not given")]


@router.get("/{stage}", operation_id="listJobLogLines", summary="Lines of a stage's output")
def list_lines(
    job_id: JobId,
    stage: Stage,
    call: Caller,
    attempt: Attempt = None,
    search: Annotated[
        str | None, Query(min_length=1, max_length=200, pattern="^[^\x00]+$", description="Only lines that hold this")
    ] = None,
    after: Annotated[int, Query(ge=0, le=LARGEST, description="Start after the line with this id")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Lines in a page")] = 200,
) -> Page[LogLine]:
    """The oldest first. Upper and lower case count as the same.

    A line keeps its id. Of a long log the oldest part is dropped; after an id in there comes the oldest line kept.
    """
    log, number, _ = _log(call, job_id, stage, attempt)
    wanted = (search or "").lower()
    lines = ((at, line) for at, line in log.lines(after) if wanted in line.lower())
    found = list(islice(lines, limit + 1))
    items = [LogLine(id=str(at), stage=stage, attempt=number, text=line) for at, line in found[:limit]]
    return Page[LogLine].of(items, len(found) > limit)


@router.get(
    "/{stage}/{attempt}",
    operation_id="getJobLog",
    summary="A stage's output as it is",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The text", "content": CONTENT},
        206: {"description": "A part of it, as `Range` asks", "content": CONTENT},
        **NO_RANGE,
    },
)
def get_log(
    job_id: JobId,
    stage: Stage,
    attempt: Annotated[int, InPath(ge=1, le=2**31, description="Number of the attempt")],
    call: Caller,
    follow: Annotated[bool, Query(description="Stay, and send what is written until the attempt has ended")] = False,
    asked: Annotated[str | None, Header(alias="Range", max_length=100, description="One range of bytes")] = None,
) -> Response:
    """`Range: bytes=-65536` is the end of it.

    Positions count from the first byte that was written. Of a long log the oldest part is dropped: a range that begins
    there begins at the oldest byte that is kept, which `Content-Range` says.
    """
    log, _, running = _log(call, job_id, stage, attempt)
    oldest, size = log.kept()
    start, end = byte_range(asked, size)
    whole = (start, end) == (oldest, size) or not is_range(asked)
    start = max(start, oldest)
    headers = {"Accept-Ranges": "bytes"}
    if start >= end and is_range(asked):
        return nothing_there(size, "log", oldest=oldest)
    if follow and running:
        text = _follow(call, log, job_id, stage, attempt, start)
        return StreamingResponse(text, media_type=TEXT, headers=headers)
    if whole:
        return StreamingResponse(log.text(start, end), media_type=TEXT, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(log.text(start, end), status_code=206, media_type=TEXT, headers=headers)


def _log(call: Call, job_id: str, stage: StageName, attempt: int | None) -> tuple[AttemptLog, int, bool]:
    """The log, the attempt's number, and whether it may still grow."""
    call.jobs.exists(job_id)
    row, number = call.reading.attempt(job_id, stage, attempt)
    log = AttemptLog(call.settings, job_id=job_id, stage=stage, attempt=number)
    running = row.status == StageStatus.RUNNING and row.epoch == number
    if not log.exists() and not running:
        remedy = "Ask an API process that mounts the worker's folder for logs."
        raise NotFoundError("the log is not on this machine", field="attempt", value=number, remedy=remedy)
    return log, number, running


def _chunks(log: AttemptLog, start: int) -> list[tuple[int, bytes]]:
    return list(log.read(start, log.kept()[1]))


async def _follow(
    call: Call, log: AttemptLog, job_id: str, stage: StageName, attempt: int, at: int
) -> AsyncIterator[bytes]:
    while True:
        row, _ = await asyncio.to_thread(call.reading.attempt, job_id, stage, attempt)
        for begin, chunk in await asyncio.to_thread(_chunks, log, at):
            at = begin + len(chunk)
            yield chunk
        if not (row.status == StageStatus.RUNNING and row.epoch == attempt):
            return
        await asyncio.sleep(FOLLOW_SECONDS)
