"""A worker that was killed is known to be dead on its own machine: its stage goes on long before the lease runs out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from helpers import claimed, eventually, spec
from regraft.holdings import FOLDER
from regraft.jobstore import Jobs, Leases, make_engine
from regraft.jobstore.losses import Losses
from regraft.models import Stage
from regraft.processes import is_gone
from regraft.settings import Settings
from regraft.takeover import Successor

PROGRAM = """
import sys
from regraft.jobstore import Leases, make_engine
from regraft.runner import Supervisor
from regraft.settings import Settings
s = Settings()
Supervisor(leases=Leases(make_engine(s), s), settings=s, worker="w1", module="stage_double").run(sys.argv[1])
"""


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """A lease that no test lives to see the end of."""
    patient = settings.model_copy(update={"lease_seconds": 3600.0})
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("SAVED", str(tmp_path / "saved"))
    for name in ("database_url", "redis_url", "home", "allowed_roots", "lease_seconds"):
        monkeypatch.setenv(f"REGRAFT_{name.upper()}", str(getattr(patient, name)))
    return patient


@pytest.fixture
def second(engine: Engine, settings: Settings) -> Successor:
    return Successor(Losses(engine, settings), settings)


@pytest.fixture
def worker(engine: Engine, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, str]]:
    """A supervisor in a process of its own, the stage process that it has started, and the job."""
    job = Jobs(engine).create(spec(dataset={"uri": "deaf"})).id
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, f"{job}.prepare"])
    saved = tmp_path / "saved"
    child = int(eventually(lambda: saved.exists() and saved.read_text(), what="the child"))
    yield process, child, job
    for number in (signal.SIGCONT, signal.SIGKILL):
        process.send_signal(number)
    process.wait()


def prepare_of(engine: Engine, job: str) -> Stage:
    return Jobs(engine).get(job).stages[0]


def test_a_stage_of_a_killed_worker_goes_on_at_once(
    engine: Engine,
    settings: Settings,
    leases: Leases,
    second: Successor,
    worker: tuple[subprocess.Popen[bytes], int, str],
) -> None:
    process, child, job = worker
    second.look()
    assert prepare_of(engine, job).status == "running"
    process.send_signal(signal.SIGSTOP)  # silent, but able to wake up
    second.look()
    assert prepare_of(engine, job).status == "running"
    process.kill()
    process.wait()

    def taken() -> bool:
        second.look()
        return prepare_of(engine, job).status == "ready"

    eventually(taken, seconds=10, what="taking over")
    assert is_gone(child)
    (attempt,) = prepare_of(engine, job).attempts
    assert (attempt.status, attempt.reason, attempt.message) == ("failed", "worker_lost", "worker w1 was killed")
    assert not list((settings.home / FOLDER).iterdir())
    eventually(lambda: leases.ready(["prepare"]), what="the wait before the next attempt")
    assert claimed(leases, job, "prepare").epoch == 2


def test_what_the_dead_worker_did_not_hold_any_more_is_not_touched(
    engine: Engine, settings: Settings, leases: Leases
) -> None:
    losses = Losses(engine, settings)
    job = Jobs(engine).create(spec()).id
    claim = claimed(leases, job, "prepare")
    assert not losses.give_back(claim.stage_id, epoch=claim.epoch + 1, worker=claim.worker)
    assert not losses.give_back(claim.stage_id, epoch=claim.epoch, worker="another")
    assert not losses.give_back("job-0.prepare", epoch=1, worker=claim.worker)
    assert prepare_of(engine, job).status == "running"
    assert losses.give_back(claim.stage_id, epoch=claim.epoch, worker=claim.worker)
    assert not losses.give_back(claim.stage_id, epoch=claim.epoch, worker=claim.worker)


def test_an_unreachable_database_leaves_the_note_for_the_next_look(
    settings: Settings, second: Successor, worker: tuple[subprocess.Popen[bytes], int, str]
) -> None:
    process, child, _ = worker
    process.kill()
    process.wait()
    eventually(lambda: is_gone(child), what="the child's death")
    away = make_engine(settings.model_copy(update={"database_url": f"postgresql://x@/x?host={os.devnull}"}))
    Successor(Losses(away, settings), settings).look()
    assert len(list((settings.home / FOLDER).iterdir())) == 1
    second.look()
    assert not list((settings.home / FOLDER).iterdir())
