"""A simulated fleet on a real PostgreSQL: what claims cost with a long queue, and what the tables do under load.

    python benchmarks/fleet.py --workers 2000 --stages 5000 --queued 100000 --processes 2

Workers are rows and calls, not processes: each process plays its share of them with the project's own store code
(heartbeat, `ready`, claim, one renewal, one report, finish). One line of JSON a measurement. For a number to carry over
to another machine, look at `database_cpu_ms_per_stage`, not at stages per second: the CPU time of all of PostgreSQL's
processes during the drain, heartbeats included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import Engine, text

from regraft.embedded import EmbeddedPostgres
from regraft.jobstore import Announcements, Claim, Jobs, Leases, Outcome, Report, Workers, make_engine, migrate
from regraft.settings import Settings
from regraft.specs import JobSpec

QUEUES = ("prepare", "convert", "train.cpu", "evaluate.cpu", "export")
BEAT_SECONDS = 5.0
RESULT = {"uri": "file:///x", "address": "x", "step": 1, "tokens_seen": 1, "scores": {}}
SPEC = JobSpec.model_validate(
    {"dataset": {"uri": "/d"}, "base_checkpoint": {"uri": "/b"}, "target": {"kind": "cpu"}, "name": "fleet"}
)
TABLES = ("jobs", "stages", "attempts", "events", "metrics", "outbox", "workers")


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        postgres.start()
        try:
            settings = Settings(database_url=postgres.url, home=Path(folder))
            engine = make_engine(settings)
            migrate(engine)
            _say("claim_empty", **_claim_latency(engine, settings, options.samples, make_one=True))
            _fill(engine, jobs=options.queued // 2)
            _say("claim_queued", queued=options.queued, **_claim_latency(engine, settings, options.samples))
            _say("repeat_after_a_flush", seconds=_repeat_seconds(engine, settings))
            with engine.begin() as connection:
                connection.execute(text("TRUNCATE jobs CASCADE"))
            _drain(engine, settings, options, postmaster=_postmaster(postgres))
            engine.dispose()
        finally:
            postgres.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2000)
    parser.add_argument("--stages", type=int, default=5000)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samples", type=int, default=300)
    return parser.parse_args()


def _claim_latency(engine: Engine, settings: Settings, samples: int, *, make_one: bool = False) -> dict[str, float]:
    """Seconds of looking for a stage and claiming it; `make_one`: the queue holds one job at a time."""
    jobs, leases = Jobs(engine), Leases(engine, settings)
    took = []
    for _ in range(samples):
        if make_one:
            jobs.create(SPEC)
        started = time.perf_counter()
        claim = leases.claim(leases.ready(QUEUES, limit=1)[0], worker="w")
        took.append(time.perf_counter() - started)
        assert claim is not None
        if make_one:
            jobs.cancel(claim.job_id)
            leases.finish(claim, Outcome(status="cancelled", reason="cancelled"))
    return _quantiles(took)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(cuts[49] * 1e3, 2), "p99_ms": round(cuts[98] * 1e3, 2)}


def _fill(engine: Engine, *, jobs: int) -> None:
    """So many queued jobs, written by the server itself: each with its five stages, the first two ready."""
    spec = SPEC.model_dump_json(by_alias=True)
    statements = (
        "INSERT INTO jobs (id, name, spec, labels, warnings, status, admitted_at) SELECT 'bulk-' || n, 'fleet',"
        " CAST(:spec AS jsonb), '{}', '[]', 'queued', now() FROM generate_series(1, :jobs) n",
        "INSERT INTO stages (id, job_id, name, position, queue, status, announced_at)"
        " SELECT id || '.' || s.name, id, s.name, s.position, s.queue, s.status, now() FROM jobs, (VALUES"
        " ('prepare', 0, 'prepare', 'ready'), ('convert', 1, 'convert', 'ready'),"
        " ('train', 2, 'train.cpu', 'pending'), ('evaluate', 3, 'evaluate.cpu', 'pending'),"
        " ('export', 4, 'export', 'pending')) AS s (name, position, queue, status) WHERE id LIKE 'bulk-%'",
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), {"spec": spec, "jobs": jobs} if ":spec" in statement else {})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _repeat_seconds(engine: Engine, settings: Settings) -> float:
    """One sweep when every announcement has been lost."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET announced_at = now() - interval '1 h' WHERE status = 'ready'"))
    started = time.perf_counter()
    Announcements(engine, settings).repeat(is_empty=lambda queue: True)
    return round(time.perf_counter() - started, 3)


def _drain(engine: Engine, settings: Settings, options: argparse.Namespace, *, postmaster: int) -> None:
    """From a full queue to an empty one."""
    _fill(engine, jobs=options.stages // 5)
    before = _sizes(engine)
    waited = multiprocessing.get_context("spawn").Queue()
    share = options.workers // options.processes
    context = multiprocessing.get_context("spawn")
    started, spent = time.perf_counter(), _cpu_seconds(postmaster)
    players = [
        context.Process(target=_play, args=(settings.database_url, number, share, waited))
        for number in range(options.processes)
    ]
    for player in players:
        player.start()
    took = [waited.get() for _ in players]
    for player in players:
        player.join()
    wall, spent = time.perf_counter() - started, _cpu_seconds(postmaster) - spent
    claims = [seconds for each in took for seconds in each["claims"]]
    beats = [seconds for each in took for seconds in each["beats"]]
    stages = options.stages // 5 * 5
    growth = {name: round((size - before[name]) / stages) for name, size in _sizes(engine).items() if name != "workers"}
    _say(
        "drain",
        workers=options.workers,
        stages=stages,
        seconds=round(wall, 1),
        stages_per_second=round(stages / wall, 1),
        database_cpu_ms_per_stage=round(1e3 * spent / stages, 1),
        claim=_quantiles(claims),
        heartbeats=len(beats),
        heartbeat=_quantiles(beats) if len(beats) > 1 else {},
        bytes_per_stage=growth,
        **_load(engine),
    )


def _postmaster(postgres: EmbeddedPostgres) -> int:
    return int((postgres.data / "postmaster.pid").read_text().split()[0])


def _cpu_seconds(postmaster: int) -> float:
    """What the server has used so far: its processes that run, and by its own account those that have ended."""
    ticks = _ticks(postmaster)
    for task in Path(f"/proc/{postmaster}/task").glob("*/children"):
        ticks += sum(_ticks(int(pid)) for pid in task.read_text().split())
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:  # it has ended since it was listed
        return 0
    return sum(int(field) for field in fields[11:15])  # utime, stime, and those of children it has waited for


def _play(url: str, number: int, workers: int, out: multiprocessing.Queue[dict[str, list[float]]]) -> None:
    """A share of the fleet: takes turns, each worker as busy as the database lets it be."""
    settings = Settings(database_url=url)
    engine = make_engine(settings)
    leases, alive = Leases(engine, settings), Workers(engine)
    pick = random.Random(number)
    claims: list[float] = []
    beats: list[float] = []
    idle, turn, started = 0, 0, time.perf_counter()
    while idle < 3:
        while len(beats) < (time.perf_counter() - started) / BEAT_SECONDS * workers:
            beats.append(_timed(lambda: _beat(alive, f"w{number}-{len(beats) % workers}")))
        ready = leases.ready(QUEUES, limit=16)
        idle = 0 if ready else idle + 1
        pick.shuffle(ready)
        for stage_id in ready:
            at = time.perf_counter()
            claim = leases.claim(stage_id, worker=f"w{number}-{turn % workers}")
            claims.append(time.perf_counter() - at)
            turn += 1
            if claim is not None:
                _work(leases, claim)
                break
        else:
            time.sleep(0.05)
    engine.dispose()
    out.put({"claims": claims, "beats": beats})


def _beat(workers: Workers, name: str) -> None:
    workers.seen(name, service="worker", version="0", queues=QUEUES, offers={"targets": {"cpu": {}}})


def _work(leases: Leases, claim: Claim) -> None:
    point = {"name": "train_loss", "step": 1, "value": 1.0, "tokens_seen": 1}
    leases.report(claim, Report(progress={"step": 1}, metrics=[point]))
    leases.renew(claim)
    leases.finish(claim, Outcome(status="succeeded", result=RESULT))


def _timed(call: object) -> float:
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


def _sizes(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            name: connection.scalar(text(f"SELECT pg_total_relation_size('{name}')")) or 0  # constants
            for name in TABLES
        }


def _load(engine: Engine) -> dict[str, float]:
    """What the server says it did, since it was started."""
    query = text(
        "SELECT xact_commit, deadlocks, tup_updated, tup_inserted FROM pg_stat_database WHERE datname = 'regraft'"
    )
    hot = text(
        "SELECT round(100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0), 1) FROM pg_stat_user_tables"
        " WHERE relname = 'stages'"
    )
    with engine.connect() as connection:
        row = connection.execute(query).one()
        return {**dict(row._mapping), "heap_only_updates_percent": float(connection.scalar(hot) or 0)}


def _say(what: str, **figures: object) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


if __name__ == "__main__":
    main()
