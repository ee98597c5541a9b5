"""What the API sends about checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from regraft.models import Artifact
from regraft_api.schemas import View

KNOWN = ("step", "tokens_seen", "format", "state", "parent_id")


class CheckpointView(View):
    """A checkpoint that a job's training published, or that was promoted."""

    object: Literal["job.checkpoint"] = "job.checkpoint"
    id: str
    job_id: str
    attempt: int
    """Of the train stage, which published it."""
    step: int | None
    tokens_seen: int | None
    """By training until then."""
    format: str
    """`hf`, or a Cerebras release as `cs-1.8`."""
    uri: str
    """Its folder."""
    state: str
    """`complete`, or `pruned` once retention has deleted it."""
    promoted: bool
    """Kept whatever the job's retention says."""
    parent_id: str | None
    """Of a promoted checkpoint: the one it was promoted from."""
    metrics: dict[str, float]
    """Measured when it was made."""
    created_at: datetime

    @classmethod
    def of(cls, row: Artifact) -> CheckpointView:
        """From its row."""
        detail = dict(row.detail)
        numbers = {name: value for name, value in detail.items() if isinstance(value, int | float)}
        return cls(
            id=row.id,
            job_id=row.job_id,
            attempt=row.epoch,
            step=detail.get("step"),
            tokens_seen=detail.get("tokens_seen"),
            format=detail.get("format", "hf"),
            uri=row.uri,
            state=detail.get("state", "complete"),
            promoted=row.kind == "promoted",
            parent_id=detail.get("parent_id"),
            metrics={name: value for name, value in numbers.items() if name not in KNOWN},
            created_at=row.created_at,
        )


class FileView(View):
    """One file of a checkpoint."""

    object: Literal["checkpoint.file"] = "checkpoint.file"
    id: str
    """Its path in the checkpoint's folder."""
    bytes: int
    sha256: str
    """Also its ETag."""


class Origin(View):
    """An artifact that something was made from."""

    role: str
    """`dataset`, `base_checkpoint`."""
    address: str | None
    """Hash of everything that determines its bytes."""
    uri: str | None
    sources: list[str]
    """What the job's spec names."""


class Lineage(View):
    """Which data and which base made a checkpoint."""

    object: Literal["checkpoint.lineage"] = "checkpoint.lineage"
    checkpoint_id: str
    job_id: str
    attempt: int
    step: int | None
    origins: list[Origin]
    parents: dict[str, str]
    """As the checkpoint's own manifest says: role to address or digest. Empty where the API does not mount it."""
    made_by: dict[str, Any]
    """The options that made it, from the same manifest."""
