"""Jobs under random faults, drawn from a seed, and an oracle that knows what must hold after it.

    python benchmarks/chaos.py --seeds 20 --first 1 --faults 6

Real servers, Celery workers, dispatcher and stage processes; the stages are the doubles of `tests/faults`, which
publish real checkpoints of a computation whose end is known to the bit. The API is not among the victims: jobs are
written to the store directly. One line of JSON a seed, and a summary; exit status 1 if an invariant was violated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "faults")]

import psycopg  # noqa: E402
import redis  # noqa: E402
from plant import Plant  # noqa: E402

from regraft.embedded import EmbeddedPostgres, EmbeddedValkey  # noqa: E402
from regraft.jobstore import make_engine, migrate  # noqa: E402
from regraft.localstack import Process  # noqa: E402
from regraft.settings import Settings  # noqa: E402

STEPS = 40
JOBS = 3
RECOVERY_SECONDS = 60.0
"""Bound on the time from the last fault to the end of all jobs, which hold some seconds of work themselves."""


class Chaos:
    """One pair of servers for all seeds; a database and a home for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres")
        self.valkey = EmbeddedValkey(folder / "valkey")
        self.postgres.start()
        self.valkey.start()

    def close(self) -> None:
        """Stop the servers."""
        self.valkey.stop()
        self.postgres.stop()

    def run(self, seed: int, *, faults: int) -> dict[str, object]:
        """One seed: what was done, how long recovery took, and what was violated (empty: nothing)."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE chaos_{seed}")  # a number
        settings = Settings(
            home=self.folder / f"seed-{seed}",
            database_url=self.postgres.url.replace("/regraft?", f"/chaos_{seed}?"),
            redis_url=self.valkey.url,
            allowed_roots="/",
            lease_seconds=3,
            retry_seconds=0.2,
            announce_seconds=1,
            poll_seconds=0.25,
            stop_seconds=5,
            hang_seconds=10,
            max_attempts=20,
        )
        settings.home.mkdir()
        engine = make_engine(settings)
        migrate(engine)
        seedling = _Seed(self, Plant(engine, settings), random.Random(seed))
        try:
            return {"seed": seed, **seedling.run(faults)}
        finally:
            seedling.stop()
            engine.dispose()
            shutil.rmtree(settings.home, ignore_errors=True)


class _Seed:
    def __init__(self, chaos: Chaos, plant: Plant, dice: random.Random) -> None:
        self.chaos, self.plant, self.dice = chaos, plant, dice
        self.dispatcher = Process("dispatcher", plant.settings)
        self.faults: dict[str, Callable[[], None]] = {
            "kill_stage_process": self._kill_child,
            "kill_worker": self._kill_worker,
            "stop_worker_past_its_lease": self._suspend_worker,
            "terminate_worker": self._terminate_worker,
            "kill_dispatcher": self._kill_dispatcher,
            "flush_broker": self._flush,
            "restart_broker": self._restart_broker,
            "restart_database": self._restart_database,
        }

    def run(self, count: int) -> dict[str, object]:
        self.dispatcher.start()
        for _ in range(2):
            self._start_worker()
        jobs = [self.plant.submit(steps=STEPS) for _ in range(JOBS)]
        done: Counter[str] = Counter()
        for _ in range(count):
            time.sleep(self.dice.uniform(0.2, 2.0))
            name = self.dice.choice(sorted(self.faults))
            self.faults[name]()
            done[name] += 1
        last = time.monotonic()
        violation = ""
        try:
            for job in jobs:
                self.plant.await_end(job, seconds=RECOVERY_SECONDS)
            recovered = time.monotonic() - last
            self.plant.check(*jobs, steps=STEPS)
        except AssertionError as error:
            recovered, violation = time.monotonic() - last, str(error) or repr(error)
        attempts = sum(len(stage.attempts) for job in jobs for stage in self.plant.jobs.get(job).stages)
        return {
            "faults": dict(done),
            "attempts": attempts,
            "recovery_seconds": round(recovered, 1),
            "violation": violation,
        }

    def stop(self) -> None:
        self.plant.stop()
        self.dispatcher.terminate()
        self.dispatcher.wait(time.monotonic() + 20)

    def _start_worker(self) -> None:
        self.plant.start_worker(FAULT_STEP_SECONDS="0.1")

    def _worker(self) -> subprocess.Popen[bytes]:
        return self.dice.choice([worker for worker in self.plant.workers if worker.poll() is None])

    def _kill_child(self) -> None:
        children = self.plant.children()
        if children:
            try:
                os.kill(self.dice.choice(children), signal.SIGKILL)
            except ProcessLookupError:
                return

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
        os.kill(self.dispatcher.pid, signal.SIGKILL)
        self.dispatcher.wait(time.monotonic() + 10)
        self.dispatcher.start()

    def _flush(self) -> None:
        with redis.Redis.from_url(self.chaos.valkey.url) as broker:
            broker.flushall()

    def _restart_broker(self) -> None:
        self.chaos.valkey.stop(with_signal=signal.SIGKILL)
        shutil.rmtree(self.chaos.valkey.data)  # as without an append-only file
        self.chaos.valkey.start()

    def _restart_database(self) -> None:
        self.chaos.postgres.stop(with_signal=signal.SIGQUIT)
        self.chaos.postgres.start()


def main() -> int:
    """Run seeds and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--faults", type=int, default=6)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder))
        try:
            for seed in range(options.first, options.first + options.seeds):
                found.append(chaos.run(seed, faults=options.faults))
                print(json.dumps(found[-1]), flush=True)
        finally:
            chaos.close()
    violations = [one["seed"] for one in found if one["violation"]]
    longest = max(float(str(one["recovery_seconds"])) for one in found)
    total = sum(sum(one["faults"].values()) for one in found)  # type: ignore[attr-defined]
    summary = {"seeds": len(found), "faults": total, "violations": violations, "longest_recovery_seconds": longest}
    print(json.dumps(summary))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
