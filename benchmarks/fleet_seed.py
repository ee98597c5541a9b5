"""A long queue, written by the server itself: as many jobs as wanted, each as `POST /jobs` leaves it behind."""

from __future__ import annotations

import json

from sqlalchemy import Engine, text

from regraft.jobstore.creation import first_stages
from regraft.specs import JobSpec

SPEC = JobSpec.model_validate(
    {"dataset": {"uri": "/d"}, "base_checkpoint": {"uri": "/b"}, "target": {"kind": "cpu"}, "name": "fleet"}
)
TABLES = ("jobs", "stages", "attempts", "events", "metrics", "outbox", "workers")
# Ids are in no order, as those of real jobs. Nothing is in the outbox: the dispatcher has sent it.
_STATEMENTS = (
    "INSERT INTO jobs (id, name, spec, labels, warnings, status, admitted_at, last_event)"
    " SELECT 'job-' || left(md5(n::text), 16), 'fleet', CAST(:spec AS jsonb), '{}', '[]', 'queued', now(), 3"
    " FROM generate_series(1, :jobs) n",
    "INSERT INTO stages (id, job_id, name, position, queue, status, announced_at)"
    " SELECT id || '.' || s.name, id, s.name, s.position, s.queue, s.status,"
    " CASE WHEN s.status = 'ready' THEN now() END FROM jobs,"
    " jsonb_to_recordset(CAST(:stages AS jsonb)) AS s (name text, position int, queue text, status text)"
    " WHERE jobs.status = 'queued'",
    "INSERT INTO events (job_id, seq, stage, level, type, message, data)"
    " SELECT id, e.seq, e.stage, 'info', 'state', e.message, jsonb_build_object('status', e.status)"
    " FROM jobs, (VALUES (1, NULL, 'job is queued', 'queued'), (2, 'prepare', 'prepare is ready', 'ready'),"
    " (3, 'convert', 'convert is ready', 'ready')) AS e (seq, stage, message, status) WHERE jobs.status = 'queued'",
)


def seed(engine: Engine, *, jobs: int) -> None:
    """So many queued jobs, each with its five stages, two of them ready; no job may be queued before."""
    stages = json.dumps(first_stages(SPEC, admitted=True))
    values = {"spec": SPEC.model_dump_json(by_alias=True), "jobs": jobs, "stages": stages}
    with engine.begin() as connection:
        # Foreign keys hold by construction; looking two million of them up takes longer than writing the rows.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in _STATEMENTS:
            given = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(text(statement), given)
    tidy(engine)


def tidy(engine: Engine) -> None:
    """Leave no work behind that the server would do later, beside what is measured."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))


def sizes(engine: Engine) -> dict[str, int]:
    """Bytes of each table with its indexes and what is stored beside it."""
    sized = text("SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relname = ANY(:tables)")
    with engine.connect() as connection:
        return dict(connection.execute(sized, {"tables": list(TABLES)}).all())
