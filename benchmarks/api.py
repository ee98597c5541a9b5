"""POST /jobs against the least one could write, and against MLflow; what watchers cost it; how soon a job starts.

    python benchmarks/api.py [--mlflow FOLDER] [--requests 2000] [--watchers 500] [--starts 40]
    python benchmarks/api.py --rounds 0 --starts 15      # how soon a job starts, and nothing else

One Postgres, one process for each server, the load from this process over 32 connections. Regraft's request is
authenticated, validated, idempotent and durable: job, stages, events, messages and key in one transaction. The other
one is a FastAPI route that adds one row by SQLAlchemy's ORM and returns it. Watchers share ten jobs, to each of which
something happens every second, with and without watchers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from json import dumps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import latency
from sqlalchemy import Engine

from regraft.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from regraft.jobstore import Jobs, Keys, Leases, Report, Scope, make_engine, migrate
from regraft.settings import Settings
from regraft.specs import JobSpec

CONNECTIONS = 32
MLFLOW = ("mlflow==3.6.0", "sqlalchemy<2.1", "psycopg2-binary")
JOB = {"dataset": {"uri": "/data/corpus"}, "base_checkpoint": {"uri": "/models/base"}, "target": {"kind": "cpu"}}
ROW = {"json": {"name": "x", "spec": JOB}}
MINIMAL = """
import os, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import JSON, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
class Base(DeclarativeBase): pass
class Row(Base):
    __tablename__ = "minimal"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    spec: Mapped[dict] = mapped_column(JSON)
class Body(BaseModel):
    name: str = ""
    spec: dict
class Answer(BaseModel):
    id: int
    name: str
    spec: dict
engine = create_engine(os.environ["URL"], pool_size=20)
Base.metadata.create_all(engine)
app = FastAPI()
@app.post("/rows", response_model=Answer)
def create(body: Body):
    with Session(engine) as session:
        row = Row(name=body.name, spec=body.spec)
        session.add(row)
        session.commit()
        return Answer(id=row.id, name=row.name, spec=row.spec)
uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
"""
Request = Callable[[int], dict[str, Any]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--mlflow", type=Path, help="folder of a virtual environment for MLflow; made if it is not there"
    )
    options.add_argument("--requests", type=int, default=2000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--watchers", type=int, default=500)
    options.add_argument("--starts", type=int, default=40)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as settings:
        print(dumps(measure(settings, given, Path(name)), indent=2))


def measure(settings: Settings, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    engine = make_engine(settings)
    migrate(engine)
    _, key = Keys(engine).create(name="benchmark", scope=Scope.ADMIN)
    headers = {"Authorization": f"Bearer {key}"}
    numbers = itertools.count()

    def job(_: int) -> dict[str, Any]:
        return {"json": JOB, "headers": {"Idempotency-Key": f"key-{next(numbers)}"}}

    rows: dict[str, Any] = {"regraft": [], "minimal": []}
    with regraft(settings) as ours, minimal(settings) as other:
        starts = latency.start(settings, ours, headers, samples=given.starts) if given.starts else {}
        for _ in range(given.rounds):  # by turns, so that what else the machine does meets both
            rows["regraft"].append(asyncio.run(load(f"{ours}/jobs", job, given.requests, headers)))
            rows["minimal"].append(asyncio.run(load(f"{other}/rows", lambda _: ROW, given.requests, {})))
        watched = [Jobs(engine).create(JobSpec.model_validate(JOB)).id for _ in range(10)]
        with happening(engine, settings, watched):
            for _, watchers in itertools.product(range(given.rounds), (0, given.watchers)):
                found = asyncio.run(watched_load(f"{ours}/jobs", job, given.requests, headers, watched, watchers))
                rows.setdefault(f"watchers_{watchers}", []).append(found)
    if given.mlflow:
        with mlflow(settings, given.mlflow, folder / "artifacts") as url:
            start = {"json": {"experiment_id": "0"}}
            path = f"{url}/api/2.0/mlflow/runs/create"
            rows["mlflow"] = [asyncio.run(load(path, lambda _: start, given.requests // 4, {}))]
    engine.dispose()
    found = {name: best(found) for name, found in rows.items() if found} | {"start": starts}
    if given.rounds and given.watchers:
        found["watchers_cost_percent"] = cost(rows["watchers_0"], rows[f"watchers_{given.watchers}"])
    return found


def cost(without: list[dict[str, float]], watched: list[dict[str, float]]) -> float:
    """The median over rounds, each against its neighbour, since the pace of the machine drifts meanwhile."""
    rate = "requests_per_second"
    return round(100 * (1 - statistics.median(b[rate] / a[rate] for a, b in zip(without, watched, strict=True))), 1)


def best(found: list[dict[str, float]]) -> dict[str, float]:
    """The round with the median throughput."""
    return sorted(found, key=lambda row: row["requests_per_second"])[len(found) // 2]


async def load(url: str, request: Request, count: int, headers: dict[str, str]) -> dict[str, float]:
    """`count` requests over 32 connections."""
    seconds: list[float] = []
    left = iter(range(count))

    async def worker() -> None:
        async with connected(url, headers) as client:
            for number in left:
                began = time.perf_counter()
                await client.post(**request(number))
                seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
    elapsed = time.perf_counter() - began
    found = statistics.quantiles(seconds, n=100)
    print(f"{url}: {count / elapsed:.1f} requests/s", file=sys.stderr)
    return {
        "requests_per_second": round(count / elapsed, 1),
        "p50_ms": round(1000 * found[49], 1),
        "p99_ms": round(1000 * found[98], 1),
    }


async def watched_load(
    url: str, request: Request, count: int, headers: dict[str, str], jobs: list[str], watchers: int
) -> dict[str, float]:
    """The same while so many clients watch events."""
    ready, received = asyncio.Semaphore(0), 0

    async def watch(job: str) -> None:
        nonlocal received
        async with connected(f"{url}/{job}/events/stream", headers) as client:
            await client.send("GET")
            await client.reader.readuntil(b"\nid: ")  # it watches: what that takes is not in the figures
            ready.release()
            while chunk := await client.reader.read(1 << 16):
                received += chunk.count(b"\nid: ")  # after the line with the chunk's size

    tasks = [asyncio.create_task(watch(jobs[number % len(jobs)])) for number in range(watchers)]
    for _ in range(watchers):
        await ready.acquire()
    await asyncio.sleep(2.0 if watchers else 0.0)  # until all have been told what there was
    received = 0
    found = await load(url, request, count, headers)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found | {"events_received": received}


class Connection:
    """HTTP/1.1 by hand: a client library would take as long for a request as the servers that are measured."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._parts = urlsplit(url)
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items())
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)

    async def post(self, json: Any, headers: dict[str, str] | None = None) -> None:
        await self.send("POST", dumps(json).encode(), headers or {})
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        body = await self.reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        assert head.startswith(b"http/1.1 20"), body

    async def send(self, method: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        own = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{method} {self._parts.path} HTTP/1.1\r\n{self._fixed}{own}{kind}\r\n".encode() + body)
        await self.writer.drain()


@asynccontextmanager
async def connected(url: str, headers: dict[str, str]) -> AsyncIterator[Connection]:
    connection = Connection(url, headers)
    await connection.open()
    try:
        yield connection
    finally:
        connection.writer.close()


@contextmanager
def happening(engine: Engine, settings: Settings, jobs: list[str]) -> Iterator[None]:
    """Something that happens to each of the jobs, every second."""
    leases, over = Leases(engine, settings), threading.Event()
    claims = [leases.claim(f"{job}.prepare", worker="benchmark") for job in jobs]

    def tell() -> None:
        while not over.wait(1.0):
            for claim in claims:
                assert claim is not None
                leases.renew(claim)
                leases.report(claim, Report(events=[{"message": "something", "level": "info", "data": None}]))

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def servers(folder: Path) -> Iterator[Settings]:
    postgres, valkey = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")
    try:
        postgres.start()
        valkey.start()
        yield Settings(home=folder, database_url=postgres.url, redis_url=valkey.url, allowed_roots="/")
    finally:
        valkey.stop()
        postgres.stop()


@contextmanager
def regraft(settings: Settings) -> Iterator[str]:
    port = free_port()
    given = {name: getattr(settings, name) for name in ("home", "database_url", "redis_url", "allowed_roots")}
    environment = {f"REGRAFT_{name.upper()}": str(value) for name, value in given.items()}
    environment |= {"REGRAFT_API_PORT": str(port), "REGRAFT_CHECK_FILES": "false"}
    with process([sys.executable, "-m", "regraft", "serve", "api"], environment, f"http://127.0.0.1:{port}/healthz"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def minimal(settings: Settings) -> Iterator[str]:
    port = free_port()
    environment = {"URL": settings.sqlalchemy_url, "PORT": str(port)}
    with process([sys.executable, "-c", MINIMAL], environment, f"http://127.0.0.1:{port}/openapi.json"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlflow(settings: Settings, environment: Path, artifacts: Path) -> Iterator[str]:
    """MLflow's server with one worker, on the same Postgres, in an environment of its own."""
    programs = environment.absolute() / "bin"
    if not (programs / "mlflow").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", *MLFLOW]
        subprocess.run(pip, check=True)
    port = free_port()
    store = settings.database_url.replace("/regraft?", "/postgres?")
    command = [str(programs / "mlflow"), "server", "--backend-store-uri", store, "--workers", "1"]
    command += ["--port", str(port), "--default-artifact-root", str(artifacts)]
    with process(command, {"PATH": f"{programs}:{os.environ['PATH']}"}, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def process(command: list[str], environment: dict[str, str], url: str) -> Iterator[None]:
    child = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                assert child.poll() is None, f"{command[0]} did not start"
                time.sleep(0.1)
        yield
    finally:
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main()
