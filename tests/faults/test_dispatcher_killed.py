"""A dispatcher that is killed between its two transactions: before it sends what it has put off, and before it forgets
what it has sent. Its batch is sent again by another, and nothing is done twice."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from bounds import WITHIN
from plant import Own, Plant, quiet_plant_of
from sqlalchemy import Connection, text

from helpers import eventually
from regraft.jobstore import make_engine
from regraft.settings import Settings

PROGRAM = str(Path(__file__).with_name("fault_dispatcher.py"))
HINTS = 2
"""Of a new job: two of its stages are ready."""
ROWS = text("SELECT count(*) FROM outbox")
PUT_OFF = text("SELECT count(*) FROM outbox WHERE available_at > now() + interval '30 s'")
A_MINUTE_LATER = text("UPDATE outbox SET available_at = available_at - interval '1 min'")
FORGETTING = text(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND query LIKE 'DELETE FROM outbox%'"
)
LIVES = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")


@pytest.mark.parametrize("was_sent", [False, True], ids=["before it sends", "before it forgets"])
def test_what_it_had_taken_is_sent_again(own: Own, own_settings: Settings, was_sent: bool) -> None:
    settings = own_settings.model_copy(update={"announce_seconds": 600.0})  # the outbox alone, no second announcement
    engine = make_engine(settings)
    with quiet_plant_of(engine, settings) as plant, engine.connect() as looking:
        looking.execution_options(isolation_level="AUTOCOMMIT")
        job = plant.submit(steps=5)
        (killed_before_it_forgets if was_sent else killed_before_it_sends)(own, plant, looking)
        assert looking.scalar(PUT_OFF) == HINTS, "nothing was forgotten, and nobody else takes it meanwhile"
        assert waiting(own) == (HINTS if was_sent else 0)
        looking.execute(A_MINUTE_LATER)
        with dispatching(plant) as another:
            eventually(lambda: looking.scalar(ROWS) == 0, what="the rows being forgotten")
            assert waiting(own) == (2 * HINTS if was_sent else HINTS)
            plant.start_worker()
            plant.check(job, steps=5, within=WITHIN[23])
            assert another.poll() is None
        assert looking.scalar(ROWS) == 0
        assert [len(stage.attempts) for stage in plant.jobs.get(job).stages] == [1] * 5
    engine.dispose()


def killed_before_it_sends(own: Own, plant: Plant, looking: Connection) -> None:
    """It waits for the broker's first word."""
    with stopped(own), dispatching(plant):
        eventually(lambda: looking.scalar(PUT_OFF) == HINTS, what="the commit that puts off")
        plant.struck()


def killed_before_it_forgets(own: Own, plant: Plant, looking: Connection) -> None:
    """It waits for the lock of the table, which is taken while the broker lets it wait."""
    with plant.engine.connect() as blocker, dispatching(plant):
        with stopped(own):
            eventually(lambda: looking.scalar(PUT_OFF) == HINTS, what="the commit that puts off")
            blocker.execute(text("LOCK TABLE outbox IN SHARE MODE"))
        pid = eventually(lambda: looking.scalar(FORGETTING), what="the statement that forgets, waiting")
        plant.struck()
    # With the lock its statement is carried out; of the commit the server never hears.
    eventually(lambda: looking.scalar(LIVES, {"pid": pid}) == 0, what="the end of its transaction")


@contextmanager
def dispatching(plant: Plant) -> Iterator[subprocess.Popen[bytes]]:
    """A dispatcher's process; killed at the end."""
    process = plant.spawn("dispatcher", [PROGRAM], plant.settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def stopped(own: Own) -> Iterator[None]:
    """A broker that takes connections and says nothing."""
    assert own.valkey.process is not None
    own.valkey.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        own.valkey.process.send_signal(signal.SIGCONT)


def waiting(own: Own) -> int:
    """Hints in the broker."""
    with redis.Redis.from_url(own.valkey.url) as broker:
        queues = [key for name in ("prepare", "convert") for key in broker.keys(f"{name}*")]
        return sum(broker.llen(queue) for queue in queues)
