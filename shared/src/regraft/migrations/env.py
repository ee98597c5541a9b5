"""Alembic's entry point; the engine is handed over by `regraft.jobstore.engine`.

Whoever waits for a table's lock has all behind it that come later: claims and renewals would queue up behind a
migration that waits for a dump, until leases run out. So it waits a few seconds only, lets go of everything, and tries
again; after two minutes it gives up, with nothing changed. All migrations of a call are one transaction.
"""

import logging
import time

from alembic import context
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from regraft.errors import RegraftError
from regraft.models import Base

LOCK = 7203315  # any number: it only has to be the same for every migrating process
WAIT_SECONDS, TRIES, REST_SECONDS = 5.0, 12, 5.0
_IN_THE_WAY = (LockNotAvailable, DeadlockDetected)
log = logging.getLogger(__name__)


def run() -> None:
    given = context.config.attributes
    tries = given.get("tries", TRIES)
    for left in reversed(range(tries)):
        try:
            _migrate(given["engine"], wait_seconds=given.get("wait_seconds", WAIT_SECONDS))
            return
        except OperationalError as error:
            if not isinstance(error.orig, _IN_THE_WAY):
                raise
            if not left:
                raise _held(error, tries) from error
            log.warning("a table is held by somebody else, the migration tries again: %s", _first_line(error))
            time.sleep(given.get("rest_seconds", REST_SECONDS))


def _migrate(engine: Engine, *, wait_seconds: float) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = {int(1000 * wait_seconds)}"))
        context.configure(connection=connection, target_metadata=Base.metadata)
        context.run_migrations()


def _held(error: OperationalError, tries: int) -> RegraftError:
    return RegraftError(
        f"the schema was left as it is: in {tries} tries a table was held by somebody else ({_first_line(error)})",
        field="REGRAFT_DATABASE_URL",
        remedy="Let backups and long transactions end (pg_stat_activity shows them), then run `regraft migrate` again.",
    )


def _first_line(error: OperationalError) -> str:
    return str(error.orig).splitlines()[0]


run()
