"""The migrations make what the models say, and go down and up with data in the tables."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

from helpers import spec
from regraft.jobstore import Jobs, migrate
from regraft.jobstore.engine import alembic_config
from regraft.models import Base


def test_the_migrations_make_what_the_models_say(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_they_go_down_to_nothing_and_up_again_on_data(engine: Engine) -> None:
    Jobs(engine).create(spec())
    command.downgrade(alembic_config(engine), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    migrate(engine)
    assert Jobs(engine).create(spec()).status == "queued"


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    job = Jobs(engine).create(spec())
    migrate(engine)
    assert Jobs(engine).get(job.id).status == "queued"
