"""A new job in one statement: its row, its stages, its first events and messages, and the key it was asked for with.

One statement is one transaction and one round trip: a job is there as a whole or not at all, and many clients can
create at once. What it gives up is the ORM: the columns are spelled out here a second time, and a test compares what
comes out with what the rules of `regraft.jobs` say.

The idempotency key is a row with a primary key of its own: of any number of requests with the same key one inserts it,
the others wait until that one's transaction has ended and then find its job.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from regraft import jobs as rules
from regraft.errors import ConflictError, InvalidInputError
from regraft.jobs import JobStatus, StageName, StageStatus
from regraft.plan import queue_for
from regraft.specs import JobSpec

IN_FLIGHT = "idempotency_in_flight"
_CREATE = text("""
WITH held AS (
    INSERT INTO idempotency_keys (project_id, key, digest, job_id)
    SELECT :project, CAST(:key AS text), :digest, :id WHERE CAST(:key AS text) IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING job_id
), job AS (
    INSERT INTO jobs (id, project_id, name, spec, labels, warnings, status, last_event)
    SELECT :id, :project, :name, CAST(:spec AS jsonb), CAST(:labels AS jsonb), CAST(:warnings AS jsonb), :status, :last
    WHERE CAST(:key AS text) IS NULL OR EXISTS (SELECT FROM held)
    RETURNING id, project_id, created_at
), stage AS (
    INSERT INTO stages (id, project_id, job_id, name, position, queue, status, announced_at)
    SELECT job.id || '.' || s.name, job.project_id, job.id, s.name, s.position, s.queue, s.status,
           CASE WHEN s.status = 'ready' THEN now() END
    FROM job, jsonb_to_recordset(CAST(:stages AS jsonb)) AS s (name text, position int, queue text, status text)
    RETURNING id, project_id, queue, status
), event AS (
    INSERT INTO events (job_id, project_id, seq, stage, level, type, message, data)
    SELECT job.id, job.project_id, e.seq, e.stage, e.level, e.type, e.message, e.data
    FROM job, jsonb_to_recordset(CAST(:events AS jsonb))
         AS e (seq int, stage text, level text, type text, message text, data jsonb)
), message AS (
    INSERT INTO outbox (stage_id, project_id, queue) SELECT id, project_id, queue FROM stage WHERE status = 'ready'
)
SELECT created_at FROM job
""")
_FIND = text("""
SELECT k.digest, j.id, j.created_at, j.spec, j.warnings FROM idempotency_keys k JOIN jobs j ON j.id = k.job_id
WHERE k.project_id = :project AND k.key = :key
""")


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A job as it was when it was created; a replayed answer says the same, whatever has become of it since."""

    id: str
    created_at: datetime
    spec: dict[str, Any]
    warnings: Sequence[str]
    replayed: bool


def create(
    engine: Engine, spec: JobSpec, *, project: str, warnings: Sequence[str] = (), key: str | None = None
) -> Accepted:
    """Create the job, or find the one that the same request with the same key has created.

    Raises:
        InvalidInputError: the key was used for another request.
        ConflictError: the first request with this key is still being worked on.
    """
    content = spec.model_dump(mode="json", by_alias=True)
    row = _row(spec, content, project=project, warnings=warnings, key=key)
    # Each statement is a transaction of its own: what the first one waited for, the second one sees.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while True:
            made = _insert(connection, row)
            if made is not None:
                return Accepted(id=row["id"], created_at=made, spec=content, warnings=warnings, replayed=False)
            found = connection.execute(_FIND, row).first()
            if found is not None:  # else the one we waited for was rolled back, and the key is free again
                break
    if found.digest != row["digest"]:
        raise InvalidInputError(
            "this key was used for another request",
            field="Idempotency-Key",
            value=key,
            remedy="Use a new key for a new job.",
            reason="idempotency_key_reused",
        )
    return Accepted(id=found.id, created_at=found.created_at, spec=found.spec, warnings=found.warnings, replayed=True)


def _insert(connection: Connection, row: dict[str, Any]) -> datetime | None:
    try:
        made: datetime | None = connection.execute(_CREATE, row).scalar()
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            message = "a request with this key is still being worked on"
            raise ConflictError(message, field="Idempotency-Key", value=row["key"], reason=IN_FLIGHT) from error
        raise
    return made


def _row(
    spec: JobSpec, content: dict[str, Any], *, project: str, warnings: Sequence[str], key: str | None
) -> dict[str, Any]:
    stages = first_stages(spec)
    events = _first_events(stages, warnings)
    text_of = json.dumps(content)
    return {
        "id": f"job-{secrets.token_hex(8)}",
        "project": project,
        "key": key,
        "digest": hashlib.sha256(text_of.encode()).hexdigest() if key else None,
        "name": spec.name,
        "spec": text_of,
        "labels": json.dumps(content["labels"]),
        "warnings": json.dumps(list(warnings)),
        "status": str(JobStatus.QUEUED),
        "last": len(events),
        "stages": json.dumps(stages),
        "events": json.dumps(events),
    }


def first_stages(spec: JobSpec) -> list[dict[str, Any]]:
    """The stages of a new job: those that need nothing are ready."""
    ready = rules.now_ready(dict.fromkeys(StageName, StageStatus.PENDING))
    return [
        {
            "name": name,
            "position": position,
            "queue": queue_for(name, spec),
            "status": StageStatus.READY if name in ready else StageStatus.PENDING,
        }
        for position, name in enumerate(rules.NEEDS)
    ]


def _first_events(stages: Sequence[dict[str, Any]], warnings: Sequence[str]) -> list[dict[str, Any]]:
    lines = [_event("job is queued", type="state", data={"status": JobStatus.QUEUED})]
    lines += [_event(warning, level="warn") for warning in warnings]
    lines += [
        _event(f"{stage['name']} is ready", stage=stage["name"], type="state", data={"status": StageStatus.READY})
        for stage in stages
        if stage["status"] is StageStatus.READY
    ]
    return [{**line, "seq": seq} for seq, line in enumerate(lines, start=1)]


def _event(message: str, **fields: Any) -> dict[str, Any]:
    return {"stage": None, "level": "info", "type": "message", "data": None, "message": message, **fields}
