"""A simulated fleet on a real PostgreSQL: what claims cost with a long queue, and what the tables do under load.

    python benchmarks/fleet.py --workers 2000 --jobs 200000 --processes 2 --seconds 600

Five stages a job: this example has 1,000,000. They are drained to the end, or for so many seconds; how far it came is
said. Workers are rows and calls, not processes (`fleet_play.py`). One line of JSON a measurement. For a number to carry
over to another machine, look at `database_cpu_ms_per_stage`, not at stages per second: the CPU time of all of
PostgreSQL's processes during the drain, without what the heartbeats took, which are measured by themselves before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fleet_play import BEAT_SECONDS, QUEUES, Share, beat, beats, dispatch, play
from fleet_seed import SPEC, seed, sizes, tidy
from sqlalchemy import text

from regraft.embedded import EmbeddedPostgres
from regraft.jobstore import Announcements, Jobs, Leases, Outcome, Report, Workers, make_engine, migrate
from regraft.jobstore.reading import Reading
from regraft.settings import Settings

STAGES = 5
"""Of a job."""


class Fleet:
    """The database under test."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace) -> None:
        self.settings = Settings(database_url=postgres.url, home=folder)
        self.engine = make_engine(self.settings)
        self.options = options
        self._postmaster = int((postgres.data / "postmaster.pid").read_text().split()[0])

    def cpu(self) -> float:
        """Seconds that the server has used: its processes that run, and by its own account those that have ended."""
        ticks = _ticks(self._postmaster)
        for task in Path(f"/proc/{self._postmaster}/task").glob("*/children"):
            ticks += sum(_ticks(int(pid)) for pid in task.read_text().split())
        return ticks / os.sysconf("SC_CLK_TCK")

    def wal(self) -> int:
        """Bytes of log written so far."""
        return int(self.value("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))

    def value(self, query: str) -> float:
        """The one number that a query finds."""
        with self.engine.connect() as connection:
            return float(connection.execute(text(query)).scalar_one() or 0)


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        postgres.start()
        try:
            fleet = Fleet(postgres, Path(folder), options)
            migrate(fleet.engine)
            _measure(fleet, options)
            fleet.engine.dispose()
        finally:
            postgres.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2000, help="queued, with five stages each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of the drain; without: to its end")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samples", type=int, default=300)
    return parser.parse_args()


def _measure(fleet: Fleet, options: argparse.Namespace) -> None:
    _say("claim_empty", **_claims(fleet, options.samples, make_one=True))
    took = _seconds(lambda: seed(fleet.engine, jobs=options.jobs))
    megabytes = {name: round(size / 1e6, 1) for name, size in sizes(fleet.engine).items()}
    _say("seed", stages=options.jobs * STAGES, seconds=took, megabytes=megabytes)
    _say("claim_queued", ready=options.jobs * 2, **_claims(fleet, options.samples))
    _say("sweeps", **_sweeps(fleet))
    calls = _calls(fleet, options.workers)
    _say("calls", **calls)
    _drain(fleet, options, beat_ms=calls["heartbeat"]["database_cpu_ms"])


def _claims(fleet: Fleet, samples: int, *, make_one: bool = False) -> dict[str, float]:
    """Seconds of looking for a stage and claiming it; `make_one`: the queue holds one job at a time."""
    jobs, leases = Jobs(fleet.engine), Leases(fleet.engine, fleet.settings)
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
        leases.finish(claim, Outcome(status="released", reason="cancelled"))
    return _quantiles(took)


def _sweeps(fleet: Fleet) -> dict[str, float]:
    """Seconds of what the dispatcher does every two, and of the depth of the queues, which is asked for in between."""
    announcements = Announcements(fleet.engine, fleet.settings)
    with fleet.engine.begin() as connection:
        connection.execute(text("UPDATE stages SET announced_at = now() - interval '1 h' WHERE status = 'ready'"))
    tidy(fleet.engine)  # what that left behind is no part of a fleet's load
    return {
        "nothing_lost": _seconds(lambda: announcements.repeat(is_empty=lambda _: False)),
        "all_lost": _seconds(lambda: announcements.repeat(is_empty=lambda _: True)),
        "reclaim": _seconds(announcements.reclaim),
        "queue_depths": _seconds(Reading(fleet.engine).queues),
    }


def _calls(fleet: Fleet, workers: int) -> dict[str, dict[str, float]]:
    """What a worker does all day, each call by itself: as often as there are workers."""
    leases, alive = Leases(fleet.engine, fleet.settings), Workers(fleet.engine)
    claim = leases.claim(leases.ready(QUEUES, limit=1)[0], worker="w")
    assert claim is not None
    calls: dict[str, Callable[[int], object]] = {
        "heartbeat": lambda turn: beat(alive, f"w0-{turn}"),
        "idle_poll": lambda turn: leases.ready(QUEUES, limit=1),
        "renew": lambda turn: leases.renew(claim),
        "wanted": lambda turn: leases.wanted(claim),
        "report": lambda turn: leases.report(claim, Report(progress={"step": turn}, metrics=_points(turn))),
    }
    found = {name: _cost(fleet, call, times=workers) for name, call in calls.items()}
    leases.finish(claim, Outcome(status="released"))
    return found


def _points(step: int) -> list[dict[str, object]]:
    return [{"name": f"metric_{each}", "step": step, "value": 1.0, "tokens_seen": step} for each in range(5)]


def _cost(fleet: Fleet, call: Callable[[int], object], *, times: int) -> dict[str, float]:
    spent, took = fleet.cpu(), []
    for turn in range(times):
        started = time.perf_counter()
        call(turn)
        took.append(time.perf_counter() - started)
    return {**_quantiles(took), "database_cpu_ms": round(1e3 * (fleet.cpu() - spent) / times, 3)}


def _drain(fleet: Fleet, options: argparse.Namespace, *, beat_ms: float) -> None:
    """From a full queue to an empty one, or as far as it comes."""
    fleet.value("SELECT 1 FROM pg_stat_reset()")
    before, wal, spent, started = sizes(fleet.engine), fleet.wal(), fleet.cpu(), time.perf_counter()
    shares, hearts = _played(fleet.settings.database_url, options)
    wall, spent = time.perf_counter() - started, fleet.cpu() - spent
    stages = sum(share.stages for share in shares)
    left = fleet.value("SELECT count(*) FROM stages WHERE status IN ('pending', 'ready', 'running')")
    assert left == 0 or wall > options.seconds, f"{left} stages were lost"
    took = {name: [each for share in shares for each in share.took.get(name, [])] for name in shares[0].took}
    took |= hearts.took
    _say(
        "drain",
        stages=stages,
        left=int(left),
        seconds=round(wall, 1),
        stages_per_second=round(stages / wall, 1),
        database_cpu_ms_per_stage=round((1e3 * spent - hearts.beats * beat_ms) / stages, 2),
        players_cpu_ms_per_stage=round(1e3 * sum(share.cpu for share in shares) / stages, 2),
        heartbeats=hearts.beats,
        heartbeats_of_percent=round(100 * hearts.beats / (wall / BEAT_SECONDS * options.workers), 1),
        heartbeat_cpu_ms=round(1e3 * hearts.cpu / max(hearts.beats, 1), 2),
        claims_that_came_second=sum(share.missed for share in shares),
        wal_bytes_per_stage=round((fleet.wal() - wal) / stages),
        bytes_per_stage={name: round((size - before[name]) / stages) for name, size in sizes(fleet.engine).items()},
        milliseconds={name: _quantiles(seconds) for name, seconds in took.items() if len(seconds) > 1},
        deadlocks=int(fleet.value("SELECT deadlocks FROM pg_stat_database WHERE datname = 'regraft'")),
        heap_only_percent=_heap_only(fleet),
    )


def _played(url: str, options: argparse.Namespace) -> tuple[list[Share], Share]:
    """What the players did, and the hearts of their workers."""
    context = multiprocessing.get_context("spawn")
    out, beaten, begun, done = context.Queue(), context.Queue(), context.Event(), context.Event()
    shares = [Share(number=number, seconds=options.seconds) for number in range(options.processes)]
    players = [context.Process(target=play, args=(url, share, out)) for share in shares]
    heart = context.Process(target=beats, args=(url, Share(workers=options.workers), begun, done, beaten))
    dispatcher = context.Process(target=dispatch, args=(url, done))
    heart.start()
    begun.wait(60)  # a small queue is empty before a process has begun
    for process in (*players, dispatcher):
        process.start()
    shares = [out.get() for _ in players]
    done.set()
    hearts = beaten.get()
    for process in (*players, heart, dispatcher):
        process.join()
    return shares, hearts


def _heap_only(fleet: Fleet) -> dict[str, float]:
    """Of a table's updates, those that touched no index."""
    query = "SELECT 100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0) FROM pg_stat_user_tables WHERE relname = '{}'"
    return {table: round(fleet.value(query.format(table)), 1) for table in ("jobs", "stages", "attempts", "workers")}


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:  # it has ended since it was listed
        return 0
    return sum(int(field) for field in fields[11:15])  # utime, stime, and those of children it has waited for


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(cuts[49] * 1e3, 2), "p99_ms": round(cuts[98] * 1e3, 2)}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return round(time.perf_counter() - started, 3)


def _say(what: str, **figures: object) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


if __name__ == "__main__":
    main()
