"""Alembic's entry point; the engine is handed over by `regraft.jobstore.engine`."""

from alembic import context
from sqlalchemy import text

from regraft.models import Base

LOCK = 7203315  # any number: it only has to be the same for every migrating process


def run() -> None:
    engine = context.config.attributes["engine"]
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        context.configure(connection=connection, target_metadata=Base.metadata)
        context.run_migrations()


run()
