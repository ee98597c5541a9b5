"""`POST /jobs/{id}/...`: cancel, pause, resume, try again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import ValidationError

from regraft.specs import AnyTarget, JobSpec, TargetSpec
from regraft_api import preflight
from regraft_api.dependencies import Caller, JobId
from regraft_api.examples import RESUMES
from regraft_api.problems import faults_of
from regraft_api.routes.responses import CONFLICT, NOT_FOUND
from regraft_api.schemas import JobView, Sent
from regraft_api.strict_json import StrictRoute

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"], responses={**NOT_FOUND, **CONFLICT}, route_class=StrictRoute)


class Resume(Sent):
    """How to go on."""

    target: AnyTarget | None = None
    """The hardware from now on; null: as before."""


@router.post("/cancel", operation_id="cancelJob", status_code=202, summary="Cancel a job")
def cancel_job(job_id: JobId, call: Caller) -> JobView:
    """What runs is told to stop and what it has published stays; asking twice changes nothing."""
    return JobView.of(call.jobs.cancel(job_id))


@router.post("/pause", operation_id="pauseJob", status_code=202, summary="Pause a job")
def pause_job(job_id: JobId, call: Caller) -> JobView:
    """What runs saves and stops, and its device is free; nothing is lost. Asking twice changes nothing."""
    call.control.pause(job_id)
    return JobView.of(call.jobs.get(job_id))


@router.post("/resume", operation_id="resumeJob", status_code=202, summary="Go on with a paused job")
def resume_job(
    job_id: JobId, call: Caller, resume: Annotated[Resume | None, Body(openapi_examples=RESUMES)] = None
) -> JobView:
    """It goes on from what it has saved, on whatever worker is free; with `target` on other hardware from then on.

    Weights, optimizer moments, step, schedule and the position in the data go over; the job's events say what does not.
    """
    target = None if resume is None else resume.target
    if target is not None:
        spec = _moved(call.jobs.get(job_id).spec, target)
        preflight.check_move(spec, workers=call.context.workers)
    call.control.resume(job_id, target=target)
    return JobView.of(call.jobs.get(job_id))


@router.post("/retry", operation_id="retryJob", status_code=202, summary="Try a failed job again")
def retry_job(job_id: JobId, call: Caller) -> JobView:
    """From the stage that failed or was cancelled, and within it from the last checkpoint; what was done stays done."""
    call.control.retry(job_id)
    return JobView.of(call.jobs.get(job_id))


def _moved(spec: dict[str, Any], target: TargetSpec) -> JobSpec:
    """The job as it will be."""
    try:
        return JobSpec.model_validate({**spec, "target": target.model_dump(mode="json")})
    except ValidationError as error:
        raise faults_of(error, ("body",)) from error
