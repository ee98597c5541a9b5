"""`/jobs/{id}/checkpoints`: what training published, its files, where it came from."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse

from regraft.errors import ConflictError, NotFoundError
from regraft.jobs import StageName
from regraft.models import Artifact
from regraft.specs import JobSpec
from regraft.storage import FileEntry, Manifest
from regraft_api.dependencies import PLAIN, After, AfterName, Call, Caller, JobId, Limit
from regraft_api.routes.responses import CONFLICT, NOT_FOUND
from regraft_api.schemas import Page, cut
from regraft_api.schemas_checkpoints import CheckpointView, FileView, Lineage, Origin

router = APIRouter(prefix="/jobs/{job_id}/checkpoints", tags=["checkpoints"], responses=NOT_FOUND)

CheckpointId = Annotated[str, InPath(max_length=64, pattern=PLAIN, description="The checkpoint's id")]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", max_length=1000, description="ETags that are known already")
]
# Not in the schema, like the ranges of any static file: what Starlette makes of a malformed one is text.
Range = Annotated[str | None, Header(alias="Range", include_in_schema=False)]
IfRange = Annotated[str | None, Header(alias="If-Range", include_in_schema=False)]
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("", operation_id="listJobCheckpoints", summary="A job's checkpoints")
def list_checkpoints(job_id: JobId, call: Caller, after: After = None, limit: Limit = 20) -> Page[CheckpointView]:
    """In the order they were published; those that were promoted are told by `promoted`."""
    rows, more = call.jobs.artifacts(job_id, kinds=("checkpoint", "promoted"), after=after, limit=limit)
    return Page[CheckpointView].of([CheckpointView.of(row) for row in rows], more)


@router.get("/{checkpoint_id}", operation_id="getJobCheckpoint", summary="Look at a checkpoint")
def get_checkpoint(job_id: JobId, checkpoint_id: CheckpointId, call: Caller) -> CheckpointView:
    """Its step, its metrics and where it lies."""
    return CheckpointView.of(_checkpoint(call, job_id, checkpoint_id))


@router.post(
    "/{checkpoint_id}/promote",
    operation_id="promoteJobCheckpoint",
    status_code=201,
    summary="Keep a checkpoint",
    responses=CONFLICT,
)
def promote_checkpoint(job_id: JobId, checkpoint_id: CheckpointId, call: Caller) -> CheckpointView:
    """Makes it one of its own that the job's retention does not touch. On a file system the files are linked and
    take no space; a bucket copies them."""
    row = _checkpoint(call, job_id, checkpoint_id)
    if row.kind == "promoted":
        return CheckpointView.of(row)
    _manifest(call, row)
    uri = call.context.artifacts.promote(row.uri, row.id)
    return CheckpointView.of(call.reading.promoted(row, uri, new_id=f"art-{secrets.token_hex(8)}"))


@router.get("/{checkpoint_id}/files", operation_id="listCheckpointFiles", summary="A checkpoint's files")
def list_files(
    job_id: JobId, checkpoint_id: CheckpointId, call: Caller, after: AfterName = None, limit: Limit = 100
) -> Page[FileView]:
    """By their paths, with sizes and digests, from the checkpoint's own manifest."""
    files = {file.path: file for file in _manifest(call, _checkpoint(call, job_id, checkpoint_id)).files}
    paths, more = cut(files, after=after, limit=limit)
    views = [FileView(id=path, bytes=files[path].bytes, sha256=files[path].sha256) for path in paths]
    return Page[FileView].of(views, more)


@router.get(
    "/{checkpoint_id}/files/{path:path}",
    operation_id="getCheckpointFile",
    summary="Download a file",
    response_class=FileResponse,
    responses={
        200: {"description": "The file", "content": BYTES},
        206: {"description": "A part of it, as `Range` asks", "content": BYTES},
        304: {"description": "It is as `If-None-Match` says; files of a checkpoint never change"},
        400: {"description": "A `Range` that cannot be understood"},
        416: {"description": "The file has no such part"},
    },
)
def get_file(
    job_id: JobId,
    checkpoint_id: CheckpointId,
    path: Annotated[str, InPath(max_length=500, pattern="^[^\x00]+$", description="As the list of files has it")],
    call: Caller,
    if_none_match: IfNoneMatch = None,
    asked: Range = None,
    if_range: IfRange = None,
) -> Response:
    """`Range` and `If-Range` are honoured, so a download that was cut off can go on; the ETag is the SHA-256."""
    row = _checkpoint(call, job_id, checkpoint_id)
    entry = _entry(_manifest(call, row), path)
    headers = {"ETag": f'"{entry.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if if_none_match is not None and headers["ETag"] in [tag.strip() for tag in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    answer = call.context.artifacts.response(row.uri, entry, headers=headers, asked=asked, if_range=if_range)
    if answer is None:
        raise _not_here(row)
    return answer


@router.get("/{checkpoint_id}/lineage", operation_id="getCheckpointLineage", summary="Where a checkpoint came from")
def get_lineage(job_id: JobId, checkpoint_id: CheckpointId, call: Caller) -> Lineage:
    """Which data and which base made it."""
    row = _checkpoint(call, job_id, checkpoint_id)
    job = call.jobs.get(job_id)
    results = {stage.name: stage.result or {} for stage in job.stages}
    try:
        manifest: Manifest | None = _manifest(call, row)
    except NotFoundError:
        manifest = None
    spec = JobSpec.model_validate(job.spec)
    sources = {"dataset": list(spec.dataset.uris), "base_checkpoint": [spec.base_checkpoint.uri]}
    made = {"dataset": results.get(StageName.PREPARE, {}), "base_checkpoint": results.get(StageName.CONVERT, {})}
    return Lineage(
        checkpoint_id=row.id,
        job_id=job_id,
        attempt=row.epoch,
        step=row.detail.get("step"),
        origins=[
            Origin(role=role, address=made[role].get("address"), uri=made[role].get("uri"), sources=sources[role])
            for role in sources
        ],
        parents=manifest.parents if manifest else {},
        made_by=manifest.made_by if manifest else {},
    )


def _checkpoint(call: Call, job_id: str, checkpoint_id: str) -> Artifact:
    call.jobs.exists(job_id)
    return call.reading.checkpoint(job_id, checkpoint_id)


def _manifest(call: Call, row: Artifact) -> Manifest:
    if row.detail.get("state") == "pruned":
        remedy = "Promote a checkpoint to keep it."
        raise ConflictError("it was deleted by the job's retention", field="checkpoint_id", value=row.id, remedy=remedy)
    manifest = call.context.artifacts.manifest(row.uri)
    if manifest is None:
        raise _not_here(row)
    return manifest


def _entry(manifest: Manifest, path: str) -> FileEntry:
    """Only what the manifest names can be had: no path leads out of the checkpoint."""
    entry = next((entry for entry in manifest.files if entry.path == path), None)
    if entry is None:
        raise NotFoundError("the checkpoint has no such file", field="path", value=path, remedy="List its files.")
    return entry


def _not_here(row: Artifact) -> NotFoundError:
    remedy = "Ask an API process that mounts the storage."
    return NotFoundError("the files cannot be reached from here", field="checkpoint_id", value=row.id, remedy=remedy)
