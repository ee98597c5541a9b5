"""How long until something happens: from a request to its process, and from a kill to the next step of training.

    python benchmarks/latency.py [--kills 5] [--lease-seconds 30]      # `recovery`
    python benchmarks/api.py --rounds 0 --starts 15      # `start`

`start`: from `POST /jobs` to the first line of its stage process, through API, Postgres, dispatcher, Valkey, worker and
claim; against bare Celery from `send_task` to the first line of its task, same broker, same pool, and against the start
of such a process alone. `recovery`: a real training (tiny GPT-J) whose process, or whose worker, is killed with
SIGKILL, until the first step of the next attempt is reported. One at a time, on an otherwise idle stack.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from latency_double import BARE
from sqlalchemy import Engine, text

from regraft.attempt import MARK
from regraft.child import SUPERVISOR
from regraft.client import Client
from regraft.embedded import free_port
from regraft.jobs import JOB_ENDED
from regraft.jobstore import make_engine
from regraft.keyfile import read_key
from regraft.localstack import with_running_servers
from regraft.processes import environments
from regraft.settings import Settings

JOB = {"dataset": {"uri": "/data/corpus"}, "base_checkpoint": {"uri": "/models/base"}, "target": {"kind": "cpu"}}
DOUBLE = Path(__file__).with_name("latency_double.py")
WAIT_SECONDS = 120.0
PAUSE_SECONDS = 0.9
"""Between two starts: what was started last has ended, and all are asked after the same rest."""


def start(settings: Settings, url: str, headers: dict[str, str], *, samples: int) -> dict[str, Any]:
    """Milliseconds (p50) until it starts; servers and an API at `url` are running, and nothing else."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        notes, numbers = Path(name), iter(range(10**9))
        environment = {"NOTES": name, "PYTHONPATH": str(DOUBLE.parent), **_environment(settings)}
        for role in ("worker", "bare"):
            stack.enter_context(_running([sys.executable, str(DOUBLE), role], environment))
        dispatcher = [sys.executable, "-m", "regraft", "serve", "dispatcher"]
        stack.enter_context(_running(dispatcher, environment))
        api = urlsplit(url)
        client = stack.enter_context(closing(HTTPConnection(str(api.hostname), api.port, timeout=60)))
        bare = Celery("bare", broker=settings.redis_url, set_as_current=False)

        def post() -> str:
            client.close()  # the server may have: it keeps no connection that rests for 5 s
            client.request("POST", "/jobs", json.dumps(JOB), {"Content-Type": "application/json", **headers})
            with client.getresponse() as answer:
                assert answer.status == HTTPStatus.ACCEPTED, answer.read()
                return str(json.load(answer)["id"])

        def send() -> str:
            name = f"bare-{next(numbers)}"
            bare.send_task(BARE, args=[name], queue="bare")
            return name

        def spawn() -> str:
            name = f"own-{next(numbers)}"
            marked = {**os.environ, **environment, "REGRAFT_ATTEMPT": f"{name}.prepare"}
            command = [sys.executable, "-P", "-m", "latency_double", "prepare"]
            subprocess.Popen(command, env=marked, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            return name

        took = _times((post, send, spawn), notes, samples)
    ours, celery, child = (round(1000 * statistics.median(seconds), 1) for seconds in took)
    return {
        "submit_to_child_ms": ours,
        "bare_celery_ms": celery,
        "child_alone_ms": child,
        "without_the_child_times_celery": round((ours - child) / celery, 2),
    }


def _times(starts: Sequence[Callable[[], str]], notes: Path, samples: int) -> list[list[float]]:
    """Seconds until each has started: by turns and after equal pauses, for whatever has rested is slower at first."""
    seconds: list[list[float]] = [[] for _ in starts]
    for number, (took, start) in product(range(-2, samples), zip(seconds, starts, strict=True)):
        time.sleep(PAUSE_SECONDS * random.uniform(0.75, 1.25))
        began = time.monotonic()
        noted = notes / start()
        _await(noted.exists, every=0.001)
        if number >= 0:  # the first ones wait for imports and connections
            took.append(float(noted.read_text()) - began)
    return seconds


def recovery(kills: int, *, lease_seconds: float) -> dict[str, Any]:
    """Seconds from SIGKILL to the first step of the next attempt: of the stage process, and of its worker."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        job = _training(Path(name))
        with _stack(home, lease_seconds) as (client, store):
            training = _Training(store, home, client.create_job(job)["id"])
            rows = {victim: training.killed(victim, times=kills) for victim in ("stage process", "worker")}
            client.cancel_job(training.job)
            _await(lambda: client.get_job(training.job)["status"] in set(map(str, JOB_ENDED)), every=0.1)
    return {"lease_seconds": lease_seconds, "kills": kills, **rows}


class _Training:
    """A job whose training goes on and on; what it has done is read where it is written."""

    def __init__(self, store: Engine, home: Path, job: str) -> None:
        self.store, self.home, self.job = store, home, job

    def killed(self, victim: str, *, times: int) -> dict[str, float]:
        took = []
        for _ in range(times):
            # Not before this attempt has saved something: what gets nowhere waits longer.
            _await(lambda: 0 < self._newest("metrics") <= self._newest("artifacts"), every=0.1)
            time.sleep(random.uniform(0.0, 3.0))
            attempt, began = self._newest("metrics"), time.monotonic()
            os.kill(self._process_id(victim), signal.SIGKILL)
            _await(lambda: self._newest("metrics") > attempt, every=0.02)  # noqa: B023
            took.append(time.monotonic() - began)
        return {"median_s": round(statistics.median(took), 1), "longest_s": round(max(took), 1)}

    def _newest(self, table: str) -> int:
        """The last attempt of which there is a row."""
        query = text(f"SELECT max(epoch) FROM {table} WHERE job_id = :job AND stage = 'train'")  # two constants
        with self.store.connect() as connection:
            return connection.scalar(query, {"job": self.job}) or 0

    def _process_id(self, victim: str) -> int:
        mark = f"{MARK}={self.job}.train:".encode()
        for pid, values in environments():
            if any(value.startswith(mark) for value in values):
                supervisor = next(value for value in values if value.startswith(SUPERVISOR.encode()))
                return pid if victim == "stage process" else int(supervisor.partition(b"=")[2])
        raise AssertionError("no stage process runs")


def _training(folder: Path) -> dict[str, Any]:
    corpus, base = str(folder / "corpus.v2"), str(folder / "base")
    _regraft("sample", "trc2", "--output", corpus, "--stories", "500", "--seed", "1")
    sizes = ("--tokenizer-text", corpus, "--max-position-embeddings", "128")
    _regraft("sample", "checkpoint", "gptj", "--output", base, *sizes)
    training = {"max_steps": 10**6, "batch_size": 8, "log_every_steps": 1, "checkpoint": {"every_steps": 20}}
    dataset = {"source": "trc2", "uri": corpus, "max_sequence_length": 64}
    return {**JOB, "dataset": dataset, "base_checkpoint": {"uri": base}, "training": training}


def _regraft(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "regraft", *arguments], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _stack(home: Path, lease_seconds: float) -> Iterator[tuple[Client, Engine]]:
    """`regraft up`, its API and its database."""
    port = free_port()
    command = [sys.executable, "-m", "regraft", "up", "--home", str(home), "--port", str(port)]
    with _running(command, {"REGRAFT_LEASE_SECONDS": str(lease_seconds)}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        _await(lambda: b"stop with" in process.stdout.readline(), every=0.0)  # type: ignore[union-attr]
        store = make_engine(with_running_servers(Settings(home=home)))
        with Client(f"http://127.0.0.1:{port}", key=read_key(home)) as client:
            yield client, store
        store.dispose()


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], *, stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    kept = {**os.environ, **environment}
    process = subprocess.Popen(command, env=kept, stdout=stdout, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def _environment(settings: Settings) -> dict[str, str]:
    given = ("home", "database_url", "redis_url", "allowed_roots")
    return {f"REGRAFT_{name.upper()}": str(getattr(settings, name)) for name in given}


def _await(condition: Callable[[], object], *, every: float) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(every)


def main() -> None:
    """Kill, measure and print; `start` is measured by `benchmarks/api.py`, with the API's other figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="of each")
    parser.add_argument("--lease-seconds", type=float, default=Settings.model_fields["lease_seconds"].default)
    options = parser.parse_args()
    print(json.dumps(recovery(options.kills, lease_seconds=options.lease_seconds)))


if __name__ == "__main__":
    main()
