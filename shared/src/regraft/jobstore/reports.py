"""What a running stage reports, and how it is written.

Progress and metrics come from every training, several times a second: they are one statement, which looks whether the
stage is still ours and holds its row meanwhile. It waits for nobody but whoever takes that stage away.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, cast, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session

from regraft.errors import FencedError
from regraft.models import Artifact

if TYPE_CHECKING:
    from regraft.jobstore.leases import Claim

PRUNED = "pruned"
"""Artifact kind that says: what was at this address has been deleted by the stage's own retention."""
# As arrays and not as JSON, which has no word for a loss that is not a number.
_PROGRESS = text("""
WITH ours AS (
    UPDATE stages SET progress = coalesce(CAST(:progress AS jsonb), progress)
    WHERE id = :stage_id AND epoch = :epoch AND worker = :worker AND status = 'running'
    RETURNING job_id, project_id, name, epoch
), written AS (
    INSERT INTO metrics (job_id, project_id, stage, epoch, name, step, value, tokens_seen)
    SELECT ours.job_id, ours.project_id, ours.name, ours.epoch, m.name, m.step, m.value, m.tokens_seen
    FROM ours, unnest(CAST(:name AS text[]), CAST(:step AS bigint[]), CAST(:value AS float8[]),
                      CAST(:tokens_seen AS bigint[])) AS m (name, step, value, tokens_seen)
    ON CONFLICT (job_id, stage, name, step) DO UPDATE SET value = excluded.value, epoch = excluded.epoch,
        tokens_seen = excluded.tokens_seen, created_at = excluded.created_at
)
SELECT name FROM ours
""")


@dataclass(kw_only=True)
class Report:
    """What a stage did since the last report."""

    progress: dict[str, Any] | None = None
    condition: dict[str, Any] | None = None
    """`reason` and `message` of what the running stage waits for, or is at."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.progress or self.condition or self.metrics or self.events or self.artifacts)


def write_progress(connection: Connection, claim: Claim, report: Report) -> None:
    """Progress and metrics; of points of the same name and step the last one counts.

    Raises:
        FencedError: the stage is not ours any more; nothing was written.
    """
    points = {(point["name"], point["step"]): point for point in report.metrics}.values()
    columns = {column: [point[column] for point in points] for column in ("name", "step", "tokens_seen")}
    columns["value"] = [float(point["value"]) for point in points]
    progress = None if report.progress is None else json.dumps(report.progress)
    ours = {"stage_id": claim.stage_id, "epoch": claim.epoch, "worker": claim.worker}
    if connection.execute(_PROGRESS, {**ours, **columns, "progress": progress}).first() is None:
        raise FencedError("the lease was lost", value=claim.stage_id)


def write_artifact(session: Session, claim: Claim, artifact: Mapping[str, Any]) -> None:
    """Under the job's lock: what was published, or that it was deleted."""
    if artifact["kind"] == PRUNED:
        detail = Artifact.detail.op("||")(cast({"state": PRUNED}, JSONB))
        same = (Artifact.job_id == claim.job_id, Artifact.uri == artifact["uri"])
        session.execute(update(Artifact).where(*same).values(detail=detail))
        return
    values = {"kind": artifact["kind"], "uri": artifact["uri"], "detail": dict(artifact["metadata"])}
    values["project_id"] = claim.project_id
    row_id = f"art-{secrets.token_hex(8)}"
    statement = insert(Artifact).values(id=row_id, job_id=claim.job_id, stage=claim.stage, epoch=claim.epoch, **values)
    # A stage reports at least once: after a crash it says again what it had published.
    again = {"detail": statement.excluded.detail}
    session.execute(statement.on_conflict_do_update(index_elements=["job_id", "kind", "uri"], set_=again))
