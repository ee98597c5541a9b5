"""Connections and schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine

from regraft.errors import InvalidInputError
from regraft.settings import Settings

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def make_engine(settings: Settings, *, pool_size: int = 5, lock_seconds: float | None = None) -> Engine:
    """An engine for `settings.database_url`; with `lock_seconds` no statement waits longer for a lock.

    Raises:
        InvalidInputError: the URL is missing or is not PostgreSQL's.
    """
    url = settings.sqlalchemy_url
    if not url.startswith("postgresql+psycopg://"):
        raise InvalidInputError(
            "a PostgreSQL URL is needed",
            field="REGRAFT_DATABASE_URL",
            value=url.partition("@")[2] or url,
            remedy="Set it to postgresql://user:password@host/database, or use `regraft up`, which starts a server.",
        )
    arguments: dict[str, object] = {"connect_timeout": 10}
    if lock_seconds is not None:
        arguments["options"] = f"-c lock_timeout={int(lock_seconds * 1000)}"
    return create_engine(url, pool_pre_ping=True, pool_size=pool_size, connect_args=arguments)


def alembic_config(engine: Engine) -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine
    return config


def migrate(engine: Engine, *, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Safe to call from several processes at once."""
    command.upgrade(alembic_config(engine), revision)
