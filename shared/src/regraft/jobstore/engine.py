"""Connections and schema."""

from __future__ import annotations

import logging
import math
import select
import time
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import Error as PsycopgError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import InterfaceError, InternalError, InvalidatePoolError, OperationalError, TimeoutError

from regraft.errors import InvalidInputError
from regraft.settings import Settings

log = logging.getLogger(__name__)

UNREACHABLE = (OperationalError, InterfaceError, InternalError, TimeoutError)
"""What a store call raises when the database cannot be talked to now; the call may or may not have been carried out."""
# A network that swallows packets is noticed within seconds, not after TCP's quarter of an hour.
TCP = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 10_000}
REST_SECONDS = 1.0
SLEEP_SECONDS = 30.0
"""A network may have dropped a connection that was left alone for so long, and said so to neither end."""
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
    # Text is asked for even of a database without an encoding, which hands out bytes: `migrate` can then refuse it.
    engine = create_engine(
        url, pool_size=pool_size, pool_use_lifo=True, connect_args={**TCP, "client_encoding": "utf8"}
    )
    _look_after_a_rest(engine)
    limits = {"idle_in_transaction_session_timeout": settings.lease_seconds}
    if lock_seconds is not None:
        limits["lock_timeout"] = lock_seconds

    # A process that is stopped in the middle of a transaction holds a job's row: the server ends it after a lease.
    @event.listens_for(engine, "connect")
    def _limit(connection: Any, _: Any) -> None:
        for name, seconds in limits.items():
            connection.execute(f"SET {name} = {int(seconds * 1000)}")
        connection.commit()

    return engine


def _look_after_a_rest(engine: Engine) -> None:
    """Look at a connection that was left alone before it is used; one that was just used is not worth it.

    A server that has gone has closed its end, which is seen without asking it. Only where there is something to read,
    or after a long time, is it asked: a round trip. When a server restarts in between, whoever comes within the second
    gets the error, as in the middle of a call.
    """

    @event.listens_for(engine, "checkin")
    def _rest(_: Any, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _try(connection: Any, record: Any, _: Any) -> None:
        rested = time.monotonic() - record.info.get("rests_since", math.inf)
        if rested > SLEEP_SECONDS or (rested > REST_SECONDS and _has_word(connection)):
            try:
                engine.dialect.do_ping(connection)
            except PsycopgError as error:
                raise InvalidatePoolError from error  # the others are as old: SQLAlchemy makes new ones


def _has_word(connection: Any) -> bool:
    """Whether something has come on a connection that waits for nothing: its end, or a notice."""
    try:
        descriptor = connection.fileno()
    except PsycopgError:
        return True  # closed
    looked = select.poll()
    looked.register(descriptor, select.POLLIN)
    return bool(looked.poll(0))


def alembic_config(engine: Engine) -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine
    return config


def migrate(engine: Engine, *, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Safe to call from several processes at once.

    One that is newer than this version is left as it is: every version works with the schema of the next minor one, so
    that code can be rolled back without the database.

    Raises:
        InvalidInputError: the database does not hold Unicode.
    """
    _check_encoding(engine)
    if (found := newer_schema(engine)) is not None:
        log.warning("the schema is at %s, which is newer than this version; it is left as it is", found)
        return
    command.upgrade(alembic_config(engine), revision)


def _check_encoding(engine: Engine) -> None:
    with engine.connect() as connection:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise InvalidInputError(
            "the database's encoding does not hold every text",
            field="REGRAFT_DATABASE_URL",
            value=encoding,
            remedy="Make the database anew: CREATE DATABASE regraft ENCODING 'UTF8' TEMPLATE template0.",
        )


def newer_schema(engine: Engine) -> str | None:
    """The schema's revision if this version does not know it, so that it is a later one's."""
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config(engine)).walk_revisions()}
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found if found is not None and found not in known else None
