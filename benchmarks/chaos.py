"""Jobs under random faults, drawn from a seed, and an oracle that knows what must hold after it.

    python benchmarks/chaos.py --seeds 200 --first-seed 1 --parallel 16

Real servers, API, Celery workers, dispatcher and stage processes, all of them for each seed alone: about a core is busy
for each seed that runs. The stages are the doubles of `tests/faults`, which publish real checkpoints of a computation
whose end is known to the bit. Every wait is shortened (`SHORT`). Jobs are asked for with an Idempotency-Key until they
are accepted, and each kill of the API comes while one more is asked for, which must then exist once; `cut_off` counts
such requests that ended without an answer. One line of JSON a seed and one for all of them, where `missed` counts
faults that found nobody to kill and so were none; exit status 1 if an invariant was violated or a seed could not be
run. What such a seed leaves behind, logs and database, is kept where `--folder` says.

It needs the library's `server` and `embedded` extras, the API and no torch or numpy, and runs from the sources
(`PYTHONPATH=shared/src:services/api/src`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

FAULTS = Path(__file__).parents[1] / "tests" / "faults"
sys.path[:0] = [str(FAULTS.parent), str(FAULTS)]

import redis  # noqa: E402
from plant import Plant  # noqa: E402
from plant_api import Api, api_of  # noqa: E402
from sqlalchemy import text  # noqa: E402

from regraft.embedded import EmbeddedPostgres, EmbeddedValkey  # noqa: E402
from regraft.jobstore import make_engine, migrate  # noqa: E402
from regraft.processes import die_with  # noqa: E402
from regraft.settings import Settings  # noqa: E402

STEPS = 40
RECOVERY_SECONDS = 60.0
"""Bound on the time from the last fault to the end of all jobs, which hold some seconds of work themselves."""
VICTIM_SECONDS = 10.0
"""So long is waited for a stage process to kill: at the start, and after each other fault, there may be none."""
SHORT: dict[str, Any] = {
    "lease_seconds": 3,
    "retry_seconds": 0.2,
    "announce_seconds": 1,
    "poll_seconds": 0.25,
    "stop_seconds": 5,
    "hang_seconds": 10,
    "max_attempts": 20,
}
"""Settings with which a fault is over in seconds; by default a lease is 30 s and the others are as much longer."""


def run(seed: int, folder: Path, *, faults: int, jobs: int) -> dict[str, Any]:
    """A stack of its own, its faults, and what became of it; an empty `violation` says that nothing was violated."""
    home = folder / f"seed-{seed}"
    home.mkdir()
    postgres, valkey = EmbeddedPostgres(home / "postgres"), EmbeddedValkey(home / "valkey", port=_lasting_port())
    try:
        postgres.start()
        valkey.start()
        settings = Settings(home=home, database_url=postgres.url, redis_url=valkey.url, allowed_roots="/", **SHORT)
        with _plant(settings) as plant, api_of(plant, port=_lasting_port()) as api:
            found = _Seed(plant, api, postgres, valkey, random.Random(seed)).run(faults, jobs=jobs)
    finally:
        valkey.stop()
        postgres.stop()
    if not found["violation"]:
        shutil.rmtree(home)
    return {"seed": seed, **found}


@contextmanager
def _plant(settings: Settings) -> Iterator[Plant]:
    # Who looks on is starved by many stacks, too: its own transactions may rest for longer than a lease of theirs.
    engine = make_engine(Settings(database_url=settings.database_url))
    migrate(engine)
    plant = Plant(engine, settings)
    try:
        yield plant
    finally:
        plant.stop()
        engine.dispose()


def _lasting_port() -> int:
    """Free, and below those that the kernel gives to clients: nobody gets it while the broker restarts."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class _MissedError(Exception):
    """The fault that was drawn found its victim gone."""


class _Seed:
    def __init__(
        self, plant: Plant, api: Api, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, dice: random.Random
    ) -> None:
        self.plant, self.api, self.postgres, self.valkey, self.dice = plant, api, postgres, valkey, dice
        self.jobs: dict[str, str] = {}
        """Of each key the job that was accepted."""
        self.cut_off = 0
        self.faults: dict[str, Callable[[], None]] = {
            "kill_stage_process": self._kill_child,
            "kill_worker": self._kill_worker,
            "stop_worker_past_its_lease": self._suspend_worker,
            "terminate_worker": self._terminate_worker,
            "kill_dispatcher": self._kill_dispatcher,
            "kill_api": self._kill_api,
            "flush_broker": self._flush,
            "restart_broker": self._restart_broker,
            "restart_database": self._restart_database,
        }

    def run(self, faults: int, *, jobs: int) -> dict[str, Any]:
        self.dispatcher = self._start_dispatcher()
        try:
            for _ in range(jobs):
                self._ask()
            return self._run(faults)
        finally:
            self.dispatcher.kill()
            self.dispatcher.wait()

    def _run(self, count: int) -> dict[str, Any]:
        for _ in range(2):
            self._start_worker()
        done, missed = self._strike(count)
        self.plant.struck()
        if self.jobs:
            self._ask()  # the others may have ended before the last fault; this one meets what it has left behind
        last = time.monotonic()
        violation = ""
        try:
            for job in self.jobs.values():
                self.plant.await_end(job, seconds=RECOVERY_SECONDS)
            recovered = time.monotonic() - last
            self._check_accepted()
            if self.jobs:
                self.plant.check(*self.jobs.values(), steps=STEPS, within=RECOVERY_SECONDS)
        except AssertionError as error:
            recovered, violation = time.monotonic() - last, str(error) or repr(error)
        attempts = sum(len(stage.attempts) for job in self.jobs.values() for stage in self.plant.jobs.get(job).stages)
        return {
            "faults": dict(done),
            "missed": dict(missed),
            "jobs": len(self.jobs),
            "cut_off": self.cut_off,
            "attempts": attempts,
            "recovery_seconds": round(recovered, 1),
            "violation": violation,
        }

    def _strike(self, count: int) -> tuple[Counter[str], Counter[str]]:
        """So many faults, one after the other: those that were, and those that found nobody."""
        done: Counter[str] = Counter()
        missed: Counter[str] = Counter()
        for _ in range(count):
            time.sleep(self.dice.uniform(0.2, 2.0))
            name = self.dice.choice(sorted(self.faults))
            try:
                self.faults[name]()
                done[name] += 1
            except _MissedError:
                missed[name] += 1
        return done, missed

    def _ask(self) -> None:
        """For one more job, until it is accepted."""
        key = f"job-{len(self.jobs)}"
        self.jobs[key] = self.api.create(key, steps=STEPS)

    def _check_accepted(self) -> None:
        """What was accepted is there once, and whoever asks again gets the same answer."""
        for key, job in self.jobs.items():
            assert self.api.create(key, steps=STEPS) == job
        with self.plant.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM jobs")) == len(self.jobs)

    def _kill_api(self) -> None:
        key = f"job-{len(self.jobs)}"
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(self.api.post, key, steps=STEPS)
            time.sleep(self.dice.uniform(0, 0.03))
            self.api.kill()
            self.cut_off += answer.result() is None
        self.api.start()
        self._ask()

    def _start_dispatcher(self) -> subprocess.Popen[bytes]:
        return self.plant.spawn("dispatcher", [str(FAULTS / "fault_dispatcher.py")], self.plant.settings)

    def _start_worker(self) -> None:
        self.plant.start_worker(FAULT_STEP_SECONDS="0.1")

    def _worker(self) -> subprocess.Popen[bytes]:
        return self.dice.choice([worker for worker in self.plant.workers if worker.poll() is None])

    def _kill_child(self) -> None:
        until = time.monotonic() + (VICTIM_SECONDS if self.jobs else 0)
        while not (children := self.plant.children()):
            if time.monotonic() > until:
                raise _MissedError
            time.sleep(0.05)
        try:
            os.kill(self.dice.choice(children), signal.SIGKILL)
        except ProcessLookupError as error:
            raise _MissedError from error

    def _kill_worker(self) -> None:
        worker = self._worker()
        worker.kill()
        worker.wait()
        self._start_worker()

    def _suspend_worker(self) -> None:
        worker = self._worker()
        worker.send_signal(signal.SIGSTOP)
        time.sleep(1.3 * self.plant.settings.lease_seconds)
        worker.send_signal(signal.SIGCONT)

    def _terminate_worker(self) -> None:
        self._worker().terminate()
        self._start_worker()

    def _kill_dispatcher(self) -> None:
        self.dispatcher.kill()
        self.dispatcher.wait()
        self.dispatcher = self._start_dispatcher()

    def _flush(self) -> None:
        with redis.Redis.from_url(self.valkey.url) as broker:
            broker.flushall()

    def _restart_broker(self) -> None:
        self.valkey.stop(with_signal=signal.SIGKILL)
        shutil.rmtree(self.valkey.data)  # as without an append-only file
        self.valkey.start()

    def _restart_database(self) -> None:
        self.postgres.stop(with_signal=signal.SIGQUIT)
        self.postgres.start()


def main() -> int:
    """Run seeds and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=6, help="for each seed")
    parser.add_argument("--jobs", type=int, default=3, help="for each seed")
    parser.add_argument("--parallel", type=int, default=1, help="stacks that run at a time")
    parser.add_argument("--folder", type=Path, help="for the stacks' data; default: a temporary one, removed")
    options = parser.parse_args()
    began = time.monotonic()
    with ExitStack() as kept:
        folder = options.folder or Path(kept.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        found = [_said(row) for row in _all(options, folder)]
    summary = {**_summary(found), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(summary))
    return 1 if summary["violations"] else 0


def _all(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The seeds' rows, in the order in which they end."""
    # Processes that are started afresh: a server ends with the thread that started it.
    fresh = multiprocessing.get_context("spawn")
    ours = {"initializer": die_with, "initargs": (str(os.getpid()),)}  # a kill of this process leaves no stack behind
    with ProcessPoolExecutor(options.parallel, mp_context=fresh, **ours) as pool:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        running = {pool.submit(run, seed, folder, faults=options.faults, jobs=options.jobs): seed for seed in seeds}
        for ended in as_completed(running):
            error = ended.exception()
            yield ended.result() if error is None else {"seed": running[ended], "violation": f"not run: {error!r}"}


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), flush=True)
    return row


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    done: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for row in rows:
        done.update(row.get("faults", {}))
        missed.update(row.get("missed", {}))
    recovery = sorted(row["recovery_seconds"] for row in rows if not row["violation"])
    middle = recovery[len(recovery) // 2] if recovery else None
    return {
        "seeds": len(rows),
        "faults": done.total(),
        "by_fault": dict(sorted(done.items())),
        "missed": dict(sorted(missed.items())),
        "jobs": sum(row.get("jobs", 0) for row in rows),
        "cut_off": sum(row.get("cut_off", 0) for row in rows),
        "attempts": sum(row.get("attempts", 0) for row in rows),
        "violations": sorted(row["seed"] for row in rows if row["violation"]),
        "recovery_seconds": {"median": middle, "longest": max(recovery, default=None)},
    }


if __name__ == "__main__":
    sys.exit(main())
