"""`/jobs`: create, look at, change."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query, Response
from fastapi.responses import Response as Raw
from pydantic import Field, ValidationError

from regraft.allowed import check_uris
from regraft.errors import InvalidInputError, RegraftError
from regraft.jobs import JobStatus, Priority
from regraft.jobstore import Accepted
from regraft.specs import JobSpec
from regraft.specs.job import LabelKey, LabelValue
from regraft_api import preflight
from regraft_api.dependencies import After, Before, Call, Caller, JobId, Limit
from regraft_api.examples import CLONES, JOBS, PATCHES
from regraft_api.problems import faults_of
from regraft_api.routes.plan import PLANNED, DryRun, PlanHash, check_pinned, dry_run_of
from regraft_api.routes.responses import BUSY, CHANGED, CONFLICT, NOT_FOUND
from regraft_api.schemas import JobView, Page, Sent
from regraft_api.strict_json import StrictRoute

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="Of any number of equal requests with this key one creates a job, and all get the same answer",
    ),
]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", max_length=64, description="The ETag of the job as it was looked at")
]


class Clone(Sent):
    """What the new job has otherwise than the old one."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Merged into the old job's spec (RFC 7396): objects field by field, null removes."""


class JobPatch(Sent):
    """What can be changed of an accepted job."""

    labels: dict[LabelKey, LabelValue] | None = Field(None, max_length=16)
    """All labels the job has from now on."""
    priority: Literal["p1", "p2", "p3"] | None = None
    """Its place in every queue from now on; what runs goes on."""


@router.post(
    "",
    operation_id="createJob",
    status_code=202,
    summary="Create a job",
    response_model=JobView,
    responses={**PLANNED, **CONFLICT, **BUSY},
)
def create_job(
    spec: Annotated[JobSpec, Body(openapi_examples=JOBS)],
    call: Caller,
    idempotency_key: IdempotencyKey = None,
    dry_run: DryRun = False,
    plan_hash: PlanHash = None,
) -> Response:
    """Check a job and queue it. The answer comes before anything is computed; follow `Location`."""
    if dry_run:
        check_pinned(spec, call, plan_hash)
        return dry_run_of(spec, call)
    return _create(spec, call, idempotency_key, plan_hash=plan_hash)


@router.get("", operation_id="listJobs", summary="List jobs")
def list_jobs(
    call: Caller,
    limit: Limit = 20,
    after: After = None,
    before: Before = None,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this status")] = None,
    label: Annotated[
        list[Annotated[str, Field(max_length=600, pattern="^[^\x00=]+=[^\x00]*$")]] | None,
        Query(description="key=value; may be given several times", examples=[["team=news"]]),
    ] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="Of their creation")] = "desc",
) -> Page[JobView]:
    """The newest first, unless `order` says otherwise."""
    if after is not None and before is not None:
        raise InvalidInputError("give one of after and before", field="before", value=before, remedy="Leave one out.")
    labels = dict(pair.split("=", 1) for pair in label or [])
    rows, more = call.jobs.find(limit=limit, after=after, before=before, status=status, labels=labels, order=order)
    return Page[JobView].of([JobView.of(row) for row in rows], more)


@router.get("/{job_id}", operation_id="getJob", summary="Look at a job", responses=NOT_FOUND)
def get_job(job_id: JobId, call: Caller, response: Response) -> JobView:
    """Its state, its stages with attempts and progress, and the spec with every default filled in."""
    return _answer(call, job_id, response)


@router.patch(
    "/{job_id}",
    operation_id="updateJob",
    summary="Change a job's labels or priority",
    responses={**NOT_FOUND, **CHANGED},
)
def update_job(
    job_id: JobId,
    patch: Annotated[JobPatch, Body(openapi_examples=PATCHES)],
    call: Caller,
    response: Response,
    if_match: IfMatch = None,
) -> JobView:
    """With `If-Match` only if nobody has changed it in between. What is not given stays."""
    priority = None if patch.priority is None else Priority.named(patch.priority)
    call.control.update(job_id, labels=patch.labels, priority=priority, version=_version(if_match))
    return _answer(call, job_id, response)


@router.post(
    "/{job_id}/clone",
    operation_id="cloneJob",
    status_code=202,
    summary="Create a job like another one",
    response_model=JobView,
    responses={**NOT_FOUND, **CONFLICT, **BUSY},
)
def clone_job(
    job_id: JobId,
    clone: Annotated[Clone, Body(openapi_examples=CLONES)],
    call: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A new job with the spec of this one, changed where `overrides` says so, and checked like any other."""
    try:
        spec = JobSpec.model_validate(merged(call.jobs.get(job_id).spec, clone.overrides))
    except ValidationError as error:
        raise faults_of(error, ("body", "overrides")) from error
    return _create(spec, call, idempotency_key)


def _create(spec: JobSpec, call: Call, key: str | None, *, plan_hash: str | None = None) -> Response:
    try:
        job = _submit(spec, call, key, plan_hash)
    except RegraftError:
        # An equal request has its job, even if its checks would fail by now: a worker is gone, a corpus was moved.
        # Asked only here, so that a request that nothing is wrong with costs one round trip.
        before = call.jobs.submitted_before(spec, key=key)
        if before is None:
            raise
        job = before
    return _accepted(job, spec)


def _submit(spec: JobSpec, call: Call, key: str | None, plan_hash: str | None) -> Accepted:
    check_pinned(spec, call, plan_hash)
    check_uris(spec, call.settings)
    warnings = preflight.check(spec, settings=call.settings, workers=call.context.workers)
    job = call.jobs.submit(spec, warnings=warnings, key=key)
    call.context.nudge.soon(job)
    return job


def _accepted(job: Accepted, spec: JobSpec) -> Response:
    # A replayed answer tells of the job as it was created, whatever became of it: the same answer to the same request.
    headers = {"Location": f"/jobs/{job.id}", "ETag": _etag(1)}
    if job.replayed:
        headers["Idempotent-Replayed"] = "true"
    body = JobView.accepted(job, spec).model_dump_json()
    return Raw(body, status_code=202, media_type="application/json", headers=headers)


def _answer(call: Call, job_id: str, response: Response) -> JobView:
    view = JobView.of(call.jobs.get(job_id))
    response.headers["ETag"] = _etag(view.version)
    return view


def _etag(version: int) -> str:
    return f'"v{version}"'


def _version(if_match: str | None) -> int | None:
    """None: whatever it is. A tag that we never gave matches no version."""
    if if_match is None or if_match.strip() == "*":
        return None
    digits = if_match.strip().removeprefix('"v').removesuffix('"')
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 9 else 0


def merged(old: Any, change: Any) -> Any:
    """A JSON merge patch applied (RFC 7396)."""
    if not isinstance(change, dict):
        return change
    base = old if isinstance(old, dict) else {}
    kept = {name: value for name, value in base.items() if name not in change}
    return kept | {name: merged(base.get(name), value) for name, value in change.items() if value is not None}
