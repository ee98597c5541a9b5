"""`POST /jobs/plan`, and what creating a job has of it: `dry_run` and `plan_hash`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from regraft.planning import Plan
from regraft.specs import JobSpec
from regraft_api import preflight
from regraft_api.dependencies import Context, Ctx
from regraft_api.examples import JOBS

router = APIRouter(prefix="/jobs", tags=["jobs"])

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
def plan_job(spec: Annotated[JobSpec, Body(openapi_examples=JOBS)], context: Ctx) -> Plan:
    """The spec with every default, stages that will find their result, memory, time and disk on every target on offer.

    What creating the job refuses is refused here too, except for too little memory, which the answer explains: see
    `fits` and `remedies`. Nothing is written.
    """
    return plan_of(spec, context)


def dry_run_of(spec: JobSpec, context: Context, response: Response) -> Plan:
    """The answer to `POST /jobs?dry_run=true`: refused like the job itself, or planned."""
    preflight.check(spec, settings=context.settings, workers=context.workers)
    response.status_code = 200
    return plan_of(spec, context)


def plan_of(spec: JobSpec, context: Context) -> Plan:
    """Plan a job with what this process can see."""
    return preflight.plan(spec, settings=context.settings, workers=context.workers, engine=context.engine)
