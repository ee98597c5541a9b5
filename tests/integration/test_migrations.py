"""The migrations make what the models say, and go down and up with data in the tables."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

from helpers import spec
from regraft.jobstore import Jobs, Leases, Outcome, Report, migrate
from regraft.jobstore.engine import alembic_config
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


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    job = Jobs(engine).create(spec())
    migrate(engine)
    assert Jobs(engine).get(job.id).status == "queued"
