"""Versions beside each other, as they are during an upgrade and after a rollback.

An API and workers of the minor version before work with the newest schema: their own statements, recorded when that
version was made (`statement_recording.py`), are replayed on it. Jobs that a newer API writes can be read by the workers
of before, as long as they use nothing new. A migration that does not keep to this is planted, and found.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest
from pydantic import Field
from sqlalchemy import Engine, text

from helpers import spec
from regraft.doctor import examine
from regraft.jobstore import Jobs, Leases, migrate
from regraft.queue import ASSIST, BROKER_PRIORITY, TASK
from regraft.settings import Settings
from regraft.specs import JobSpec, TargetSpec
from regraft.specs.versions import minor, readable_before
from statement_recording import replay, statements

RECORDINGS = {
    minor(path.stem.removeprefix("statements-")): path
    for path in (Path(__file__).parents[1] / "assets").glob("statements-*.sql")
}
OWN = minor(version("regraft"))
BEFORE = max((of for of in RECORDINGS if of < OWN), default=OWN)
"""The first version has none before it and is held against its own recording."""
EXPANDING = {
    "a table": "CREATE TABLE sites (id text PRIMARY KEY)",
    "a column that may be null": "ALTER TABLE stages ADD COLUMN site text",
    "a column with a default": "ALTER TABLE workers ADD COLUMN site text NOT NULL DEFAULT 'here'",
    "an index": "CREATE INDEX CONCURRENTLY jobs_by_name ON jobs (name)",
}
CONTRACTING = {
    "a column is gone": "ALTER TABLE stages DROP COLUMN override",
    "a column has another name": "ALTER TABLE attempts RENAME COLUMN exit_status TO status_code",
    "a column without a default": "ALTER TABLE workers ADD COLUMN site text NOT NULL",
    "a narrower type": "ALTER TABLE metrics ALTER COLUMN value TYPE smallint USING 0, ADD CHECK (value = 0)",
    "a table is gone": "ALTER TABLE maintenance RENAME TO switches",
    "a key that upserts rely on": "ALTER TABLE artifacts DROP CONSTRAINT artifacts_job_id_kind_uri_key",
    "another word for a state": "ALTER TABLE stages ADD CHECK (status <> 'running')",
}


class TargetOfTomorrow(TargetSpec):
    """A target as the next minor version might have it."""

    site: str = Field("here", json_schema_extra={"since": "99.0"})


class JobOfTomorrow(JobSpec):
    """A job with such a target, and a field of its own."""

    target: TargetOfTomorrow
    reviewers: tuple[str, ...] = Field((), json_schema_extra={"since": "99.0"})


def tomorrow(**changes: object) -> JobOfTomorrow:
    today = spec().model_dump(mode="json", by_alias=True)
    target = {**today["target"], **({"site": changes.pop("site")} if "site" in changes else {})}
    return JobOfTomorrow.model_validate({**today, **changes, "target": target})


def test_the_version_before_works_with_the_newest_schema(settings: Settings, engine: Engine) -> None:
    assert len(list(statements(RECORDINGS[BEFORE]))) > 100
    assert replay(RECORDINGS[BEFORE], settings.database_url) == []
    with engine.connect() as connection:
        (job_id,) = connection.execute(text("SELECT id FROM jobs")).scalars()
        ends = connection.execute(text("SELECT name, status FROM stages")).all()
    assert {status for _, status in ends} == {"succeeded"}
    assert len(ends) == 5
    # And this version reads what that one wrote.
    job = Jobs(engine).get(job_id)
    assert job.status == "succeeded"
    assert JobSpec.model_validate(job.spec).name == "test"


@pytest.mark.parametrize("change", EXPANDING)
def test_a_migration_may_add(settings: Settings, change: str) -> None:
    altered(settings, EXPANDING[change])
    assert replay(RECORDINGS[BEFORE], settings.database_url) == []


@pytest.mark.parametrize("change", CONTRACTING)
def test_a_migration_that_takes_away_is_found(settings: Settings, change: str) -> None:
    altered(settings, CONTRACTING[change])
    assert replay(RECORDINGS[BEFORE], settings.database_url) != []


def altered(settings: Settings, statement: str) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_messages_are_those_of_the_first_version() -> None:
    # A worker of another version waits for exactly these; what they carry is the id of a stage.
    assert (TASK, ASSIST) == ("regraft.run_stage", "regraft.assist")
    assert {int(priority): level for priority, level in BROKER_PRIORITY.items()} == {1: 0, 2: 3, 3: 6}


def test_a_job_of_a_newer_api_is_read_by_the_workers_of_before(engine: Engine, settings: Settings) -> None:
    created = created_by_tomorrow(engine, tomorrow())
    claim = Leases(engine, settings).claim(f"{created}.prepare", worker="of before")
    assert claim is not None
    assert claim.spec == spec()


def test_a_job_that_uses_what_is_new_is_refused_by_them_with_its_reason(engine: Engine, settings: Settings) -> None:
    created = created_by_tomorrow(engine, tomorrow(site="elsewhere"))
    assert Leases(engine, settings).claim(f"{created}.prepare", worker="of before") is None
    prepare = next(stage for stage in Jobs(engine).get(created).stages if stage.name == "prepare")
    assert prepare.reason == "spec_unreadable"
    assert "site" in str(prepare.message)
    assert prepare.status == "ready"  # and waits a little, for a worker that was upgraded meanwhile


def created_by_tomorrow(engine: Engine, job: JobOfTomorrow) -> str:
    return str(Jobs(engine).submit(job).id)


def test_only_new_fields_with_their_default_are_left_out() -> None:
    job = tomorrow(reviewers=["ada"])
    full = job.model_dump(mode="json", by_alias=True)
    written = readable_before(job, full, version="99.0.1")
    assert written["reviewers"] == ["ada"]
    assert "site" not in written["target"]
    assert written["training"] == full["training"]
    assert full["target"]["site"] == "here"  # what was given is left as it is
    # One minor later the fields are known to the version before.
    assert readable_before(job, full, version="99.1.0") == full


def test_a_newer_schema_is_left_as_it_is(engine: Engine, settings: Settings) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
    found = {finding.name: finding for finding in examine(settings)}
    assert found["migrations"].state == "warning"
    assert "newer" in found["migrations"].message
