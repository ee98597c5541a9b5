"""`/jobs`: create, look at, cancel."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Response

from regraft.errors import InvalidInputError
from regraft.jobs import JobStatus
from regraft.planning import Plan
from regraft.specs import JobSpec
from regraft_api import preflight
from regraft_api.dependencies import Ctx
from regraft_api.examples import JOBS
from regraft_api.problems import MEDIA_TYPE
from regraft_api.routes.plan import PLANNED, DryRun, PlanHash, dry_run_of
from regraft_api.schemas import CheckpointView, EventView, JobView, MetricView, Page, Problem

Responses = dict[int | str, dict[str, Any]]

_PROBLEM = {"model": Problem, "content": {MEDIA_TYPE: {}}}
NOT_FOUND: Responses = {404: {**_PROBLEM, "description": "There is no such job"}}
INVALID: Responses = {
    422: {**_PROBLEM, "description": "The request is refused; each fault names field, value and remedy"}
}
CONFLICT: Responses = {409: {**_PROBLEM, "description": "The job's state does not allow this"}}

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=INVALID)

Limit = Annotated[int, Query(ge=1, le=100, description="Items in a page")]
After = Annotated[str | None, Query(description="Start after the item with this id")]


@router.post("", operation_id="createJob", status_code=202, summary="Create a job", responses={**PLANNED, **CONFLICT})
def create_job(
    spec: Annotated[JobSpec, Body(openapi_examples=JOBS)],
    context: Ctx,
    response: Response,
    dry_run: DryRun = False,
    plan_hash: PlanHash = None,
) -> JobView | Plan:
    """Check a job and queue it. The answer comes before anything is computed; follow `Location`."""
    preflight.check_pinned(spec, plan_hash, settings=context.settings)
    if dry_run:
        return dry_run_of(spec, context, response)
    warnings = preflight.check(spec, settings=context.settings, workers=context.workers)
    job = context.jobs.create(spec, warnings=warnings)
    response.headers["Location"] = f"/jobs/{job.id}"
    return JobView.of(job)


@router.get("", operation_id="listJobs", summary="List jobs")
def list_jobs(
    context: Ctx,
    limit: Limit = 20,
    after: After = None,
    before: Annotated[str | None, Query(description="End before the item with this id")] = None,
    status: JobStatus | None = None,
    label: Annotated[list[str] | None, Query(description="key=value; may be given several times")] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Page[JobView]:
    """The newest first, unless `order` says otherwise."""
    if after is not None and before is not None:
        raise InvalidInputError("give one of after and before", field="before", value=before, remedy="Leave one out.")
    rows, more = context.jobs.find(
        limit=limit, after=after, before=before, status=status, labels=_labels(label or []), order=order
    )
    return _page([JobView.of(row) for row in rows], more)


@router.get("/{job_id}", operation_id="getJob", summary="Look at a job", responses=NOT_FOUND)
def get_job(job_id: str, context: Ctx) -> JobView:
    """Its state, its stages with attempts and progress, and the spec with every default filled in."""
    return JobView.of(context.jobs.get(job_id))


@router.get("/{job_id}/events", operation_id="listJobEvents", summary="A job's history", responses=NOT_FOUND)
def list_events(
    job_id: str,
    context: Ctx,
    after: Annotated[int, Query(ge=0, description="Start after the event with this id")] = 0,
    limit: Limit = 20,
) -> Page[EventView]:
    """Oldest first."""
    rows, more = context.jobs.events(job_id, after=after, limit=limit)
    return _page([EventView.of(row) for row in rows], more)


@router.get("/{job_id}/metrics", operation_id="listJobMetrics", summary="A job's metrics", responses=NOT_FOUND)
def list_metrics(
    job_id: str,
    context: Ctx,
    name: Annotated[list[str] | None, Query(description="Only these; may be given several times")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Points in a page")] = 100,
) -> Page[MetricView]:
    """Points by step."""
    rows, more = context.jobs.metrics(job_id, names=name or [], after=_metric_key(after), limit=limit)
    return _page([MetricView.of(row) for row in rows], more)


@router.get(
    "/{job_id}/checkpoints", operation_id="listJobCheckpoints", summary="A job's checkpoints", responses=NOT_FOUND
)
def list_checkpoints(job_id: str, context: Ctx, after: After = None, limit: Limit = 20) -> Page[CheckpointView]:
    """In the order they were published."""
    rows, more = context.jobs.artifacts(job_id, kind="checkpoint", after=after, limit=limit)
    return _page([CheckpointView.of(row) for row in rows], more)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    status_code=202,
    summary="Cancel a job",
    responses={**NOT_FOUND, **CONFLICT},
)
def cancel_job(job_id: str, context: Ctx) -> JobView:
    """What runs is told to stop and what it has published stays; asking twice changes nothing."""
    return JobView.of(context.jobs.cancel(job_id))


def _page(items: list[JobView] | list[EventView] | list[MetricView] | list[CheckpointView], more: bool) -> Page:  # type: ignore[type-arg]
    first, last = (items[0].id, items[-1].id) if items else (None, None)
    return Page(data=items, has_more=more, first_id=first, last_id=last)


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InvalidInputError("a label is key=value", field="label", value=pair, remedy="Write label=team=news.")
    return dict(pair.split("=", 1) for pair in pairs)


def _metric_key(cursor: str | None) -> tuple[int, str, str] | None:
    if cursor is None:
        return None
    step, _, rest = cursor.partition(".")
    stage, _, name = rest.partition(".")
    if not step.isdecimal() or not name:
        raise InvalidInputError("not the id of a metric", field="after", value=cursor, remedy="Use a page's last_id.")
    return int(step), stage, name
