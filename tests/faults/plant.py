"""A small plant to break: workers as processes, a dispatcher, jobs, and the five invariants that must hold after it.

1. Every accepted job ends in exactly one terminal state.
2. At most one attempt at a time writes, and one attempt's result counts.
3. The end is what an undisturbed run ends with, to the bit.
4. No process, no half-written file and no note of an attempt is left.
5. It recovers within the bound of its case (`bounds.WITHIN`).

`Plant.check` asserts all five.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fault_stage import LET_ON, final_state
from sqlalchemy import Engine

from helpers import eventually, spec
from regraft.dispatcher import Dispatcher
from regraft.embedded import EmbeddedPostgres, EmbeddedValkey
from regraft.holdings import FOLDER
from regraft.jobs import JOB_ENDED, STAGE_ENDED, Priority
from regraft.jobstore import Announcements, Jobs, Workers
from regraft.models import Attempt, Job, Stage
from regraft.processes import environments
from regraft.queue import Broker, make_celery
from regraft.settings import Settings
from regraft.storage import is_published, local_path

STEPS = 40
HERE = Path(__file__).parent


@dataclass
class Own:
    """Servers that a test may break."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey


class Plant:
    """Everything that belongs to one test."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.jobs = Jobs(engine)
        self.broker = Broker(make_celery(settings))
        self.workers: list[subprocess.Popen[bytes]] = []
        self.homes: list[Path] = []
        """Of each of the workers."""
        self.struck_at: datetime | None = None
        self.patience = 10.0
        """Seconds in which processes have to be gone once the jobs have ended."""

    def struck(self) -> None:
        """The fault is now, or its end where it lasts: recovery is counted from here, by the database's clock too."""
        self.struck_at = datetime.now(UTC)

    def submit(self, *, steps: int = STEPS, priority: Priority = Priority.P2) -> str:
        training = {"max_steps": steps, "batch_size": 8}
        return self.jobs.create(spec(training=training), priority=priority).id

    def start_worker(
        self, settings: Settings | None = None, *, within: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        """`within`: what its command line begins with."""
        name, settings = f"worker-{len(self.workers)}", settings or self.settings
        worker = self.spawn(name, [str(HERE / "fault_worker.py")], settings, within=within, **environment)
        self.workers.append(worker)
        self.homes.append(settings.home)
        return worker

    def patient(self) -> Settings:
        """For a worker that shall lose no lease, however little it gets of a busy machine."""
        return self.settings.model_copy(update={"lease_seconds": 20.0})

    def elsewhere(self) -> Settings:
        """For a worker of another machine with the same storage, where of a death here only the lease tells."""
        home = self.settings.home.with_name("elsewhere")
        home.mkdir(exist_ok=True)
        return self.settings.model_copy(update={"home": home, "storage_uri": self.settings.storage_root})

    def await_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """Until it waits for work."""

        def begun() -> bool:
            return any(row.name.endswith(f"-{worker.pid}") for row in Workers(self.engine).alive())

        eventually(begun, seconds=60, what="the worker's heartbeat")

    def spawn(
        self, name: str, program: list[str], settings: Settings, *, within: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        """A process of the plant with its log, which also ends when this process does."""
        values = {f"REGRAFT_{key.upper()}": str(value) for key, value in settings.model_dump().items()}
        path = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (self.settings.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*within, sys.executable, *program],
                env={**os.environ, **values, "PYTHONPATH": path, "FAULT_PARENT": str(os.getpid()), **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stage(self, job_id: str, name: str = "train") -> Stage:
        return next(stage for stage in self.jobs.get(job_id).stages if stage.name == name)

    def await_step(self, job_id: str, step: int) -> None:
        eventually(lambda: (self.stage(job_id).progress or {}).get("step", 0) >= step, seconds=60, what="a step")

    def let_on(self, *job_ids: str) -> None:
        """The trainings that FAULT_HOLD holds, or would hold."""
        for run in map(self._run, job_ids):
            run.mkdir(parents=True, exist_ok=True)
            (run / LET_ON).touch()

    def await_end(self, job_id: str, *, seconds: float = 60) -> Job:
        def ended() -> Job | None:
            job = self.jobs.get(job_id)
            return job if job.status in JOB_ENDED else None

        found: Job = eventually(ended, seconds=seconds, what="the end of the job")
        return found

    def children(self) -> list[int]:
        """Process ids of stage processes and whatever they started, of this plant."""
        homes = {f"REGRAFT_HOME={home}".encode() for home in [self.settings.home, *self.homes]}
        found = []
        for pid, values in environments():
            if homes & set(values) and any(value.startswith(b"REGRAFT_ATTEMPT=") for value in values):
                found.append(pid)
        return found

    def check(self, *job_ids: str, within: float, steps: int = STEPS, status: str = "succeeded") -> None:
        """The five invariants, for jobs that shall have ended so, `within` seconds of the fault."""
        jobs = [self.await_end(job_id, seconds=within + 10) for job_id in job_ids]
        for job in jobs:
            assert job.status == status, job.message
            self._ended_once(job)
            self._one_writer(job)
            self._as_undisturbed(job)
            if status == "succeeded":
                result = self.stage(job.id).result or {}
                assert (local_path(result["uri"]) / "state").read_text() == final_state(steps)
        self._nothing_is_left()
        self._recovered(jobs, within)

    def _ended_once(self, job: Job) -> None:
        events, _ = self.jobs.events(job.id, after=0, limit=1000)
        ends = [event for event in events if event.message.startswith("job is ") and event.message[7:] in JOB_ENDED]
        assert len(ends) == 1
        assert job.status == "succeeded" or job.reason
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        for stage in job.stages:
            assert stage.status in STAGE_ENDED
            assert job.status != "succeeded" or stage.status in ("succeeded", "cached")
            ended_well = [attempt.status for attempt in stage.attempts].count("succeeded")
            assert ended_well == (stage.status == "succeeded")
            assert not [attempt for attempt in stage.attempts if attempt.finished_at is None]

    def _one_writer(self, job: Job) -> None:
        """Neither on the disk nor in the tables comes an older attempt after a newer one."""
        audit = self._run(job.id) / "audit"
        written = [int(line.split()[0]) for line in audit.read_text().splitlines()] if audit.exists() else []
        artifacts, _ = self.jobs.artifacts(job.id, kinds=["checkpoint"], after=None, limit=500)
        for epochs in (written, [artifact.epoch for artifact in artifacts]):
            assert epochs == sorted(epochs), "an older attempt wrote after a newer one"
            assert epochs or job.status != "succeeded"

    def _as_undisturbed(self, job: Job) -> None:
        """Every checkpoint is whole, and of the computation that nobody disturbed."""
        for folder in self._run(job.id).glob("step-*"):
            assert is_published(folder)
            assert (folder / "state").read_text() == final_state(int(folder.name[5:]))

    def _run(self, job_id: str) -> Path:
        return local_path(self.settings.storage_root) / "jobs" / job_id / "train"

    def _nothing_is_left(self) -> None:
        eventually(lambda: not self.children(), seconds=self.patience, what="the end of every stage process")
        eventually(lambda: not self._notes(), seconds=self.patience, what="the end of every note of an attempt")
        storage = local_path(self.settings.storage_root)
        assert not [*storage.rglob(".tmp-*"), *storage.rglob(".work-*")]

    def _notes(self) -> list[Path]:
        """Of attempts, on the machines where a worker lives: on the others nobody is left to take them away."""
        live = {home for worker, home in zip(self.workers, self.homes, strict=True) if worker.poll() is None}
        return [note for home in live for note in (home / FOLDER).glob("*")]

    def went_on(self, job_id: str, *, attempt: int, within: float) -> Attempt:
        """That attempt at the training (from 1), which began after the fault and, by the database, in time."""
        begun: Attempt = eventually(
            lambda: next((one for one in self.stage(job_id).attempts if one.epoch == attempt), None),
            seconds=within + 30,
            what=f"attempt {attempt}",
        )
        assert self.struck_at is not None, "nothing has struck"
        took = (begun.started_at - self.struck_at).total_seconds()
        assert 0 < took < within, f"{took:.1f} s from the fault to attempt {attempt}, and {within:.1f} s are allowed"
        return begun

    def _recovered(self, jobs: list[Job], within: float) -> None:
        assert self.struck_at is not None, "nothing has struck"
        took = [(job.finished_at - self.struck_at).total_seconds() for job in jobs if job.finished_at]
        assert len(took) == len(jobs)
        assert 0 < max(took) < within, f"{max(took):.1f} s from the fault to the end, and {within} s are allowed"

    def stop(self) -> None:
        for worker in self.workers:
            for number in (signal.SIGCONT, signal.SIGKILL):
                if worker.poll() is None:
                    worker.send_signal(number)
            worker.wait()


@contextmanager
def quiet_plant_of(engine: Engine, settings: Settings) -> Iterator[Plant]:
    """A plant without a dispatcher; everything is ended at the end."""
    settings.home.mkdir(parents=True, exist_ok=True)
    plant = Plant(engine, settings)
    try:
        yield plant
    finally:
        plant.stop()


@contextmanager
def plant_of(engine: Engine, settings: Settings) -> Iterator[Plant]:
    """A plant with a dispatcher in a thread; everything is ended at the end."""
    with quiet_plant_of(engine, settings) as plant:
        dispatcher = Dispatcher(Announcements(engine, settings), plant.broker)
        thread = threading.Thread(target=dispatcher.run, daemon=True)
        thread.start()
        try:
            yield plant
        finally:
            dispatcher.stop.set()
            plant.stop()
            thread.join(20)


def kill(pid: int) -> None:
    """If its worker was killed it may have ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def hold_for(seconds: float, *processes: int, what: Callable[[], Any] = lambda: None) -> None:
    """SIGSTOP, `what()`, wait until `seconds` are over, SIGCONT."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + seconds
    what()
    time.sleep(max(0.0, until - time.monotonic()))
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
