"""`POST /jobs/{id}/...`: cancel, pause, resume, try again."""

from __future__ import annotations

from fastapi import APIRouter

from regraft_api.dependencies import Caller, JobId
from regraft_api.routes.responses import CONFLICT, NOT_FOUND
from regraft_api.schemas import JobView

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"], responses={**NOT_FOUND, **CONFLICT})


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
def resume_job(job_id: JobId, call: Caller) -> JobView:
    """It goes on from what it has saved, on whatever worker is free."""
    call.control.resume(job_id)
    return JobView.of(call.jobs.get(job_id))


@router.post("/retry", operation_id="retryJob", status_code=202, summary="Try a failed job again")
def retry_job(job_id: JobId, call: Caller) -> JobView:
    """From the stage that failed or was cancelled, and within it from the last checkpoint; what was done stays done."""
    call.control.retry(job_id)
    return JobView.of(call.jobs.get(job_id))
