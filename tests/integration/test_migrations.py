"""The migrations make what the models say, and go down and up with data in the tables."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import OperationalError

from helpers import claimed, eventually, spec
from regraft.errors import RegraftError
from regraft.jobstore import Jobs, Leases, Outcome, Report, migrate
from regraft.jobstore.engine import alembic_config
from regraft.jobstore.history import finished_trainings
from regraft.jobstore.reading import Reading
from regraft.models import Base
from regraft.settings import Settings


def test_the_migrations_make_what_the_models_say(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_they_go_down_to_nothing_and_up_again_on_data(engine: Engine) -> None:
    Jobs(engine).create(spec())
    command.downgrade(alembic_config(engine), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    migrate(engine)
    assert Jobs(engine).create(spec()).status == "queued"


def test_an_upgrade_keeps_the_job_that_it_meets_and_the_job_goes_on(engine: Engine, settings: Settings) -> None:
    """The tables as the first version made them, with a job under way."""
    jobs, leases = Jobs(engine), Leases(engine, settings)
    job_id = jobs.create(spec(labels={"team": "a"}), warnings=["worth knowing"]).id
    claim = leases.claim(f"{job_id}.prepare", worker="w")
    assert claim is not None
    point = {"name": "rate", "step": 3, "value": 2.5, "tokens_seen": 4}
    leases.report(claim, Report(metrics=[point], progress={"step": 3}))
    before = jobs.get(job_id)
    events = [(event.seq, event.message) for event in jobs.events(job_id, after=0, limit=100)[0]]
    command.downgrade(alembic_config(engine), "0001")
    columns = {column["name"] for column in inspect(engine).get_columns("jobs")}
    assert not {"project_id", "version", "priority", "admitted_at"} & columns
    migrate(engine)
    after = jobs.get(job_id)
    assert (after.project_id, after.version, after.priority) == ("default", 1, 2)
    assert after.admitted_at == after.created_at == before.created_at, "what was accepted before there were limits"
    for field in ("seq", "name", "spec", "labels", "warnings", "status", "started_at"):
        assert getattr(after, field) == getattr(before, field), field
    assert [(stage.name, stage.status, stage.epoch) for stage in after.stages] == [
        (stage.name, stage.status, stage.epoch) for stage in before.stages
    ]
    assert [(event.seq, event.message) for event in jobs.events(job_id, after=0, limit=100)[0]] == events
    assert [(row.name, row.value) for row in jobs.metrics(job_id, names=[], after=None, limit=9)[0]] == [("rate", 2.5)]
    leases.finish(claim, Outcome(status="succeeded", result={"uri": "file:///x", "address": "x"}))
    assert leases.ready(["prepare", "convert"]) == [f"{job_id}.convert"]
    assert jobs.find(limit=9, labels={"team": "a"})[0][0].id == job_id


def test_lists_are_the_same_before_and_after_the_indices_they_are_read_by(engine: Engine, settings: Settings) -> None:
    """Before and after the newest migration, up and down, with stages that wait and a training that has ended."""
    jobs, leases = Jobs(engine), Leases(engine, settings)
    trained, waits = jobs.create(spec()).id, jobs.create(spec()).id
    for name in ("prepare", "convert", "train"):
        result = {"uri": "file:///x", "address": name, "parameters": 7}
        held = claimed(leases, trained, name)
        rate = {"name": "tokens_per_second", "step": 1, "value": 2.5, "tokens_seen": 4}
        leases.report(held, Report(metrics=[rate] if name == "train" else []))
        leases.finish(held, Outcome(status="succeeded", result=result))

    def read() -> tuple[list[str], list[float]]:
        rows, _ = Reading(engine).waiting(project="default", after=f"{waits}.convert", limit=9)
        return [row.id for row in rows], [training.tokens_per_second for training in finished_trainings(engine)]

    before = read()
    assert before == ([f"{waits}.prepare", f"{trained}.evaluate"], [2.5])
    for revision in ("0004", "head"):
        (command.downgrade if revision == "0004" else command.upgrade)(alembic_config(engine), revision)
        assert read() == before, revision


def test_no_migration_takes_an_index_away_since_the_first_release(engine: Engine) -> None:
    """The minor before still asks by it, and dropping it waits for every reader."""

    def indices() -> set[str]:
        found = inspect(engine)
        return {str(one["name"]) for table in found.get_table_names() for one in found.get_indexes(table)}

    command.downgrade(alembic_config(engine), "0003")
    before = indices()
    migrate(engine)
    assert before < indices()


def quickly(engine: Engine, *, tries: int, wait_seconds: float = 0.3) -> Config:
    config = alembic_config(engine)
    config.attributes.update(wait_seconds=wait_seconds, rest_seconds=0.2, tries=tries)
    return config


@pytest.mark.parametrize("planted", [False, True])
def test_a_migration_does_not_wait_for_a_dump_with_all_others_behind_it(
    engine: Engine, settings: Settings, planted: bool
) -> None:
    job_id = Jobs(engine).create(spec()).id
    command.downgrade(alembic_config(engine), "0002")
    config = quickly(engine, tries=100, wait_seconds=60 if planted else 0.3)
    with ThreadPoolExecutor(1) as pool, engine.connect() as dump:
        dump.execute(text("SELECT count(*) FROM stages"))  # as pg_dump does, which holds the lock to its end
        goes_on = pool.submit(command.upgrade, config, "head")
        try:
            for _ in range(3):
                claim_behind_the_migration(engine, job_id)
            assert not planted
        except OperationalError:
            assert planted
        assert not goes_on.done()
        dump.rollback()
        goes_on.result(30)
    assert Jobs(engine).get(job_id).status == "queued"


def claim_behind_the_migration(engine: Engine, job_id: str) -> None:
    waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'stages'::regclass")
    with engine.connect() as looking:
        eventually(lambda: looking.execute(waits).scalar_one(), what="the migration waits")
    with engine.begin() as other:
        other.execute(text("SET LOCAL statement_timeout = '2s'"))
        other.execute(text("UPDATE stages SET lease_until = now() WHERE job_id = :job"), {"job": job_id})


def test_a_migration_that_finds_no_moment_gives_up_and_changes_nothing(engine: Engine) -> None:
    command.downgrade(alembic_config(engine), "0002")
    with engine.connect() as dump:
        dump.execute(text("SELECT count(*) FROM stages"))
        with pytest.raises(RegraftError, match="in 2 tries a table was held") as caught:
            command.upgrade(quickly(engine, tries=2), "head")
    assert "backups" in caught.value.remedy
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0002"


def test_the_newest_migration_passes_beside_a_dump(engine: Engine) -> None:
    command.downgrade(alembic_config(engine), "0003")
    with engine.connect() as dump:
        for table in ("jobs", "stages", "attempts"):
            dump.execute(text(f"SELECT count(*) FROM {table}"))
        command.upgrade(quickly(engine, tries=1), "head")


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    job = Jobs(engine).create(spec())
    migrate(engine)
    assert Jobs(engine).get(job.id).status == "queued"
