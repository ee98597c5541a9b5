"""What Prometheus is told of the deployment, read from the database when it asks.

The numbers are of the database and not of this process, so every API process tells the same, and none is lost when a
worker dies. The price is a few queries for each scrape; those that look at every attempt are asked again only after
`SLOW_SECONDS`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy import Engine, Row, text

from regraft.jobstore import Workers
from regraft.jobstore.reading import Reading
from regraft_api.hub import Hub

SLOW_SECONDS = 15.0
BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400, 604800)
_ATTEMPTS = text("""
SELECT s.name AS stage, a.status, count(*) AS number,
       coalesce(sum(extract(epoch FROM a.finished_at - a.started_at)), 0) AS seconds,
       count(*) FILTER (WHERE a.reason = 'worker_lost') AS lost,
       array_agg(width_bucket(extract(epoch FROM a.finished_at - a.started_at)::float8, CAST(:edges AS float8[])))
           FILTER (WHERE a.finished_at IS NOT NULL) AS buckets
FROM attempts a JOIN stages s ON s.id = a.stage_id WHERE a.finished_at IS NOT NULL GROUP BY s.name, a.status
""")
_JOBS = text("SELECT status, count(*) AS number FROM jobs GROUP BY status")
# Of each running training the newest value: what the stage itself measured over its last steps.
_PACE = text("""
SELECT s.job_id, (s.progress -> 'metrics' ->> 'tokens_per_second')::float8 AS pace
FROM stages s WHERE s.status = 'running' AND s.name = 'train' AND s.progress -> 'metrics' ? 'tokens_per_second'
""")


class Deployment(Collector):
    """A collector of one registry."""

    def __init__(self, engine: Engine, workers: Workers, hub: Hub) -> None:
        self._engine = engine
        self._reading = Reading(engine)
        self._workers = workers
        self._hub = hub
        self._lock = threading.Lock()
        self._slow: tuple[float, list[Row[Any]], list[Row[Any]]] = (float("-inf"), [], [])

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not need the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        jobs, attempts = self._looked_at()
        yield _gauge("regraft_jobs", "Jobs in each status.", ("status",), [((row.status,), row.number) for row in jobs])
        yield from self._queues()
        yield from self._fleet()
        yield from _attempts(attempts)

    def _looked_at(self) -> tuple[list[Row[Any]], list[Row[Any]]]:
        with self._lock:
            if time.monotonic() - self._slow[0] > SLOW_SECONDS:
                with self._engine.connect() as connection:
                    jobs = list(connection.execute(_JOBS))
                    attempts = list(connection.execute(_ATTEMPTS, {"edges": list(BUCKETS)}))
                self._slow = (time.monotonic(), jobs, attempts)
            return self._slow[1], self._slow[2]

    def _queues(self) -> Iterator[Metric]:
        depths = self._reading.queues()
        label = ("queue",)
        ready = [((depth.queue,), depth.ready) for depth in depths]
        running = [((depth.queue,), depth.running) for depth in depths]
        ages = [((depth.queue,), depth.oldest_seconds) for depth in depths]
        yield _gauge("regraft_queue_ready_stages", "Stages that wait for a worker.", label, ready)
        yield _gauge("regraft_queue_running_stages", "Stages that run.", label, running)
        yield _gauge("regraft_queue_oldest_seconds", "How long the oldest ready stage has waited.", label, ages)

    def _fleet(self) -> Iterator[Metric]:
        counts: dict[tuple[str, ...], float] = {}
        for worker in self._workers.alive():
            counts[(worker.service,)] = counts.get((worker.service,), 0) + 1
        yield _gauge("regraft_workers", "Workers heard of within a minute.", ("role",), list(counts.items()))
        with self._engine.connect() as connection:
            paces = [((row.job_id,), row.pace) for row in connection.execute(_PACE)]
        yield _gauge("regraft_training_tokens_per_second", "Pace of each running training.", ("job_id",), paces)
        yield GaugeMetricFamily("regraft_event_watchers", "Clients that watch events here.", value=self._hub.watchers)


def _gauge(name: str, text_: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, text_, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def _attempts(rows: list[Row[Any]]) -> Iterator[Metric]:
    seconds = HistogramMetricFamily("regraft_stage_seconds", "How long attempts took.", labels=("stage", "status"))
    lost = CounterMetricFamily("regraft_leases_lost", "Attempts whose worker fell silent.", labels=("stage",))
    losses: dict[str, int] = {}
    for row in rows:
        seconds.add_metric((row.stage, row.status), _cumulative(row.buckets or []), float(row.seconds))
        losses[row.stage] = losses.get(row.stage, 0) + row.lost
    for stage, count in losses.items():
        lost.add_metric((stage,), count)
    yield seconds
    yield lost


def _cumulative(found: list[int]) -> list[tuple[str, float]]:
    """Bucket 0 is below the first edge, the last one above the last edge."""
    counts = [found.count(bucket) for bucket in range(len(BUCKETS) + 1)]
    edges = [*(str(float(edge)) for edge in BUCKETS), "+Inf"]
    return [(edge, float(sum(counts[: at + 1]))) for at, edge in enumerate(edges)]
