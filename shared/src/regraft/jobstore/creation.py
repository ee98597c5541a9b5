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
from functools import cache
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from regraft import jobs as rules
from regraft.discover import version_of
from regraft.errors import ConflictError, InvalidInputError
from regraft.jobs import JobStatus, Priority, StageStatus
from regraft.jobstore.limits import has_a_slot, refuse_one_too_many
from regraft.plan import queue_for, stages_for
from regraft.specs import JobSpec
from regraft.specs.versions import readable_before

IN_FLIGHT = "idempotency_in_flight"
_CREATE = """
WITH held AS (
    INSERT INTO idempotency_keys (project_id, key, digest, admitted, job_id)
    SELECT %(project)s, CAST(%(key)s AS text), %(digest)s, %(admitted)s, %(id)s
    WHERE CAST(%(key)s AS text) IS NOT NULL
      AND (%(counted)s OR NOT EXISTS (SELECT FROM project_limits WHERE project_id = %(project)s))
    ON CONFLICT DO NOTHING RETURNING job_id
), job AS (
    INSERT INTO jobs (id, project_id, name, spec, labels, warnings, status, last_event, priority, admitted_at)
    SELECT %(id)s, %(project)s, %(name)s, CAST(%(spec)s AS jsonb), CAST(%(labels)s AS jsonb),
           CAST(%(warnings)s AS jsonb), %(status)s, %(last)s, %(priority)s, CASE WHEN %(admitted)s THEN now() END
    WHERE (CAST(%(key)s AS text) IS NULL OR EXISTS (SELECT FROM held))
      AND (%(counted)s OR NOT EXISTS (SELECT FROM project_limits WHERE project_id = %(project)s))
    RETURNING id, project_id, created_at
), stage AS (
    INSERT INTO stages (id, project_id, job_id, name, position, queue, priority, status, announced_at)
    SELECT job.id || '.' || s.name, job.project_id, job.id, s.name, s.position, s.queue, %(priority)s, s.status,
           CASE WHEN s.status = 'ready' THEN now() END
    FROM job, jsonb_to_recordset(CAST(%(stages)s AS jsonb)) AS s (name text, position int, queue text, status text)
    RETURNING id, project_id, queue, status
), event AS (
    INSERT INTO events (job_id, project_id, seq, stage, level, type, message, data)
    SELECT job.id, job.project_id, e.seq, e.stage, e.level, e.type, e.message, e.data
    FROM job, jsonb_to_recordset(CAST(%(events)s AS jsonb))
         AS e (seq int, stage text, level text, type text, message text, data jsonb)
), message AS (
    INSERT INTO outbox (stage_id, project_id, queue, priority)
    SELECT id, project_id, queue, %(priority)s FROM stage WHERE status = 'ready'
    RETURNING id
)
SELECT created_at, ARRAY(SELECT id FROM message) FROM job
"""
_FIND = text("""
SELECT k.digest, k.admitted, j.id, j.created_at, j.warnings FROM idempotency_keys k JOIN jobs j ON j.id = k.job_id
WHERE k.project_id = :project AND k.key = :key
""")


@dataclass(frozen=True)
class Hint:
    """That a stage is ready, for whoever takes from its queue."""

    queue: str
    stage_id: str
    priority: int


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A job as it was when it was created; a replayed answer says the same, whatever has become of it since."""

    id: str
    created_at: datetime
    spec: dict[str, Any]
    warnings: Sequence[str]
    admitted: bool
    """False: it waits until its project has a slot free."""
    replayed: bool
    hints: Sequence[Hint] = ()
    """Of the stages that are ready, if it was created just now."""
    messages: Sequence[int] = ()
    """The rows of the outbox that hold them."""


def create(
    engine: Engine, spec: JobSpec, *, project: str, warnings: Sequence[str] = (), key: str | None = None
) -> Accepted:
    """Create the job, or find the one that the same request with the same key has created.

    Raises:
        InvalidInputError: the key was used for another request.
        ConflictError: the first request with this key is still being worked on.
        LimitError: the project has as many unfinished jobs as it may have.
    """
    wanted = _Wanted(spec, spec.model_dump(mode="json", by_alias=True), project, tuple(warnings), key)
    # Each statement is a transaction of its own: what the first one waited for, the second one sees.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        made = _insert(connection, wanted, wanted.row(admitted=True, counted=False))
        if made is not None:
            return made
        found = _find(connection, wanted)
    return found or _create_within_limits(engine, wanted)


def created_before(engine: Engine, spec: JobSpec, *, project: str, key: str | None) -> Accepted | None:
    """The job that the same request with the same key has created; None: there is none yet, or no key.

    Raises:
        InvalidInputError: the key was used for another request.
    """
    if key is None:
        return None
    wanted = _Wanted(spec, spec.model_dump(mode="json", by_alias=True), project, (), key)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return _find(connection, wanted)


def _create_within_limits(engine: Engine, wanted: _Wanted) -> Accepted:
    """The slower way of a project that has limits: they are counted under a lock."""
    with Session(engine) as session, session.begin():
        refuse_one_too_many(session, wanted.project)
        row = wanted.row(admitted=has_a_slot(session, wanted.project), counted=True)
        made = _insert(session.connection(), wanted, row) or _find(session.connection(), wanted)
        assert made is not None
        return made


@dataclass(frozen=True)
class _Wanted:
    """A request."""

    spec: JobSpec
    content: dict[str, Any]
    project: str
    warnings: tuple[str, ...]
    key: str | None

    def row(self, *, admitted: bool, counted: bool) -> dict[str, Any]:
        """Parameters of the statement; `counted`: the project's limits allow it."""
        stages = first_stages(self.spec, admitted=admitted)
        events = _first_events(stages, self.warnings)
        return {
            "id": f"job-{secrets.token_hex(8)}",
            "project": self.project,
            "key": self.key,
            "digest": self.digest,
            "admitted": admitted,
            "counted": counted,
            "priority": int(Priority.named(self.spec.priority)),
            "name": self.spec.name,
            "spec": json.dumps(readable_before(self.spec, self.content, version=_own_version())),
            "labels": json.dumps(self.content["labels"]),
            "warnings": json.dumps(self.warnings),
            "status": str(JobStatus.QUEUED),
            "last": len(events),
            "stages": json.dumps(stages),
            "events": json.dumps(events),
        }

    @property
    def digest(self) -> str:
        """Of what is asked for."""
        return hashlib.sha256(json.dumps(self.content).encode()).hexdigest() if self.key else ""


@cache
def _own_version() -> str:
    return version_of("regraft")


def _find(connection: Connection, wanted: _Wanted) -> Accepted | None:
    """The job that was created with this key."""
    if wanted.key is None:
        return None
    found = connection.execute(_FIND, {"project": wanted.project, "key": wanted.key}).first()
    if found is None:
        return None
    if found.digest != wanted.digest:
        raise InvalidInputError(
            "this key was used for another request",
            field="Idempotency-Key",
            value=wanted.key,
            remedy="Use a new key for a new job.",
            reason="idempotency_key_reused",
        )
    # The digests are equal, so our own content is the first one's, in the same order of fields.
    made = {"id": found.id, "created_at": found.created_at, "warnings": found.warnings, "admitted": found.admitted}
    return Accepted(**made, spec=wanted.content, replayed=True)


def _insert(connection: Connection, wanted: _Wanted, row: dict[str, Any]) -> Accepted | None:
    try:  # as the driver takes it: SQLAlchemy's compiler would cost as much as the round trip
        made = connection.exec_driver_sql(_CREATE, row).first()
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            message = "a request with this key is still being worked on"
            raise ConflictError(message, field="Idempotency-Key", value=wanted.key, reason=IN_FLIGHT) from error
        raise
    if made is None:
        return None
    return Accepted(
        id=row["id"],
        created_at=made[0],
        spec=wanted.content,
        warnings=wanted.warnings,
        admitted=row["admitted"],
        replayed=False,
        hints=_hints(wanted.spec, row),
        messages=made[1],
    )


def _hints(spec: JobSpec, row: dict[str, Any]) -> list[Hint]:
    stages = first_stages(spec, admitted=row["admitted"])
    return [
        Hint(stage["queue"], f"{row['id']}.{stage['name']}", row["priority"])
        for stage in stages
        if stage["status"] is StageStatus.READY
    ]


def first_stages(spec: JobSpec, *, admitted: bool) -> list[dict[str, Any]]:
    """The stages of a new job: those that need nothing are ready, if the job may start at all."""
    names = stages_for(spec)
    ready = rules.now_ready(dict.fromkeys(names, StageStatus.PENDING)) if admitted else []
    return [
        {
            "name": name,
            "position": position,
            "queue": queue_for(name, spec),
            "status": StageStatus.READY if name in ready else StageStatus.PENDING,
        }
        for position, name in enumerate(names)
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
