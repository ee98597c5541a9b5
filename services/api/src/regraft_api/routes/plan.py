"""`POST /jobs/plan`, and what creating a job has of it: `dry_run` and `plan_hash`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from regraft.allowed import check_uris
from regraft.planning import Plan
from regraft.specs import JobSpec
from regraft_api import preflight
from regraft_api.dependencies import Call, Caller
from regraft_api.examples import JOBS
from regraft_api.strict_json import StrictRoute

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)

PLANNED: dict[int | str, dict[str, Any]] = {
    200: {"model": Plan, "description": "With `dry_run`: what would happen to the job; nothing was written"}
}

DryRun = Annotated[bool, Query(description="Check the job and say what would happen; write nothing")]
PlanHash = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=64,
        pattern="^[0-9a-f]+$",
        description="`plan_hash` of a plan: create the job only if neither it nor its inputs have changed since",
    ),
]


@router.post("/plan", operation_id="planJob", summary="See what would happen to a job")
def plan_job(spec: Annotated[JobSpec, Body(openapi_examples=JOBS)], call: Caller) -> Plan:
    """The spec with every default, stages that will find their result, memory, time and disk on every target on offer.

    What creating the job refuses is refused here too, except for too little memory, which the answer explains: see
    `fits` and `remedies`. Nothing is written.
    """
    check_uris(spec, call.settings)
    return _plan(spec, call)


def check_pinned(spec: JobSpec, call: Call, plan_hash: str | None) -> None:
    """Refuse a job whose `plan_hash` is not that of the plan it would get now."""
    if plan_hash is not None:
        check_uris(spec, call.settings)
        preflight.check_pinned(spec, plan_hash, settings=call.settings)


def dry_run_of(spec: JobSpec, call: Call) -> Response:
    """The answer to `POST /jobs?dry_run=true`: refused like the job itself, or planned."""
    check_uris(spec, call.settings)
    preflight.check(spec, settings=call.settings, workers=call.context.workers)
    return Response(_plan(spec, call).model_dump_json(by_alias=True), media_type="application/json")


def _plan(spec: JobSpec, call: Call) -> Plan:
    context = call.context
    return preflight.plan(spec, settings=call.settings, workers=context.workers, engine=context.engine)
