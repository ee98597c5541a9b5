"""A standby that is promoted without the last transactions, while the old primary still answers: case 14."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from helpers import spec
from regraft.embedded import EmbeddedPostgres
from regraft.errors import FencedError
from regraft.jobstore import Announcements, Jobs, Leases, Outcome, Report, make_engine, migrate
from regraft.settings import Settings


@pytest.fixture
def old_and_new(tmp_path: Path) -> Iterator[tuple[Engine, Engine, str]]:
    """Two primaries of one history: a job was created, then the standby missed everything."""
    old, new = EmbeddedPostgres(tmp_path / "old"), EmbeddedPostgres(tmp_path / "new")
    old.start()
    first = make_engine(Settings(database_url=old.url))
    migrate(first)
    job = Jobs(first).create(spec()).id
    first.dispose()
    old.stop()
    subprocess.run(["cp", "-a", str(old.data), str(new.data)], check=True)
    engines = []
    try:
        for server in (old, new):
            server.start()
            engines.append(make_engine(Settings(database_url=server.url)))
        yield engines[0], engines[1], job
    finally:
        for engine in engines:
            engine.dispose()
        old.stop()
        new.stop()


def test_what_was_claimed_on_the_old_primary_writes_nothing_on_the_new_one(
    old_and_new: tuple[Engine, Engine, str], settings: Settings
) -> None:
    old, new, job = old_and_new
    stage = f"{job}.prepare"
    stale = Leases(old, settings).claim(stage, worker="a")
    leases = Leases(new, settings)
    assert stale is not None
    claims = []
    for _ in range(2):  # nobody has claimed it there; then somebody has, with the same epoch
        with pytest.raises(FencedError):
            leases.renew(stale)
        with pytest.raises(FencedError):
            leases.report(stale, Report(progress={"step": 1}))
        with pytest.raises(FencedError):
            leases.finish(stale, Outcome(status="succeeded", result={}))
        claims.append(leases.claim(stage, worker="b"))
    claim = claims[0]
    assert claim is not None
    assert (claim.epoch, claims[1]) == (stale.epoch, None)
    leases.renew(claim)
    leases.finish(claim, Outcome(status="succeeded", result={"uri": "file:///made"}))
    assert Jobs(new).get(job).stages[0].status == "succeeded"
    Leases(old, settings).renew(stale)  # the old one still believes; nothing but its own end tells it
    assert Announcements(old, settings).reclaim() == 0
