"""`/jobs/{id}/events`: a job's history, in pages or as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from regraft_api.dependencies import Call, Caller, JobId, Limit
from regraft_api.hub import Hub
from regraft_api.routes.responses import NOT_FOUND
from regraft_api.schemas import EventView, Page
from regraft_api.told import PAGE, Told

router = APIRouter(prefix="/jobs/{job_id}/events", tags=["events"], responses=NOT_FOUND)

LARGEST = 2**63 - 1
HEARTBEAT_SECONDS = 15.0
STREAM = "text/event-stream"
ONE = {
    "type": "object",
    "description": "One event of the stream",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/EventView"},
        },
    },
}
"""In OpenAPI before 3.2 the schema of a stream is that of each of its events."""
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@router.get("", operation_id="listJobEvents", summary="A job's history")
def list_events(
    job_id: JobId,
    call: Caller,
    after: Annotated[int, Query(ge=0, le=LARGEST, description="Start after the event with this id")] = 0,
    limit: Limit = 20,
) -> Page[EventView]:
    """Oldest first."""
    rows, more = call.jobs.events(job_id, after=after, limit=limit)
    return Page[EventView].of([EventView.of(row) for row in rows], more)


@router.get(
    "/stream",
    operation_id="streamJobEvents",
    summary="A job's history as it happens",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `id`, `event` (`state`, `message`, `condition`), `data` as in the list",
            "content": {STREAM: {"schema": ONE}},
        },
        204: {"description": "The job has ended and there is nothing after the given id"},
    },
)
async def stream_events(
    job_id: JobId,
    call: Caller,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", max_length=19, pattern="^[0-9]{1,18}$", description="The last event received"),
    ] = None,
    after: Annotated[int, Query(ge=0, le=LARGEST, description="The same, for clients that set no header")] = 0,
) -> Response:
    """From the given event on, the oldest first; a comment now and then while nothing happens.

    The stream ends when the job has. A reader that falls far behind is cut off and comes back with `Last-Event-ID`.
    """
    start = int(last_event_id) if last_event_id is not None else after
    await asyncio.to_thread(call.jobs.exists, job_id)
    if await _is_over(call, job_id, start):
        return Response(status_code=204)
    return StreamingResponse(_stream(call, job_id, start), media_type=STREAM, headers=HEADERS)


async def _is_over(call: Call, job_id: str, after: int) -> bool:
    if not await asyncio.to_thread(call.reading.ended, job_id):
        return False
    return await asyncio.to_thread(call.context.hub.events, job_id, after) is None


async def _stream(call: Call, job_id: str, after: int) -> AsyncIterator[bytes]:
    hub = call.context.hub
    yield b": stream of a job's events\n\n"
    async with hub.watching(job_id) as reader:
        async for events in _written(hub, job_id, after):
            after = events.last
            yield events.text
        if await asyncio.to_thread(call.reading.ended, job_id):
            return
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):  # not wait_for, which makes a task each time
                    events_or_end = await reader.get()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if events_or_end is None:
                return
            if text := events_or_end.after(after):
                has_ended = events_or_end.ended > after
                after = events_or_end.last
                yield text
                if has_ended:
                    return


async def _written(hub: Hub, job_id: str, after: int) -> AsyncIterator[Told]:
    while True:
        events = await asyncio.to_thread(hub.events, job_id, after)
        if events is None:
            return
        yield events
        if len(events.seqs) < PAGE:
            return
        after = events.last
