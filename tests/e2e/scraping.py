"""`/metrics` of a running API, read as Prometheus reads it."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest
from deployment import Deployment
from prometheus_client.parser import text_string_to_metric_families

from helpers import eventually, key_for

PACE = "regraft_training_tokens_per_second"


class Scrape:
    """The samples of one moment."""

    def __init__(self, text: str) -> None:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        self._values = {(one.name, frozenset(one.labels.items())): one.value for one in samples}

    def of(self, name: str, **labels: str) -> float:
        """The value with exactly these labels; not a number if there is none."""
        return self._values.get((name, frozenset(labels.items())), math.nan)


def scraped_once(running: Deployment, holds: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape of which that is true."""
    url, key = f"http://127.0.0.1:{running.settings.api_port}/metrics", key_for(running.settings)

    def scrape() -> Scrape | None:
        now = Scrape(httpx.get(url, headers=key).raise_for_status().text)
        return now if holds(now) else None

    found: Scrape = eventually(scrape, seconds=90, what="what was waited for in /metrics")
    return found


def check_queue(running: Deployment, queue: str) -> None:
    """One stage waits there, and nobody takes it: its age grows."""
    first = scraped_once(running, lambda now: now.of("regraft_queue_oldest_seconds", queue=queue) > 0)
    age = first.of("regraft_queue_oldest_seconds", queue=queue)
    later = scraped_once(running, lambda now: now.of("regraft_queue_oldest_seconds", queue=queue) > age + 0.1)
    for scrape in (first, later):
        assert scrape.of("regraft_queue_ready_stages", queue=queue) == 1


def check_pace(running: Deployment, job_id: str) -> None:
    """The newest rate that the training has reported, or one that came meanwhile."""

    def reported() -> set[float]:
        page = running.client.metrics(job_id, name=["tokens_per_second"], limit=1000)
        return {point["value"] for point in page["data"]}

    told = scraped_once(running, lambda now: now.of(PACE, job_id=job_id) > 0).of(PACE, job_id=job_id)
    eventually(lambda: told in reported(), what="the rate among the job's metrics")


def check_attempts(running: Deployment, job_id: str) -> None:
    """Of all attempts that have ended: how many, how long, and how many of them lost their lease."""
    attempts = [
        (stage["name"], attempt)
        for job in running.client.list_jobs(limit=100)["data"]
        for stage in job["stages"]
        for attempt in stage["attempts"]
    ]
    lost = [name for name, attempt in attempts if attempt["reason"] == "worker_lost"]
    done = len([name for name, attempt in attempts if (name, attempt["status"]) == ("export", "succeeded")])
    labels = {"stage": "export", "status": "succeeded"}
    # Attempts are counted every few seconds only.
    told = scraped_once(running, lambda now: now.of("regraft_stage_seconds_count", **labels) == done)
    assert told.of("regraft_leases_lost_total", stage="train") == lost.count("train") > 0
    assert told.of("regraft_leases_lost_total", stage="export") == 0
    assert math.isnan(told.of(PACE, job_id=job_id)), "it does not train any more"
    for name, status in {(name, attempt["status"]) for name, attempt in attempts}:
        took = [seconds_of(attempt) for stage, attempt in attempts if (stage, attempt["status"]) == (name, status)]
        check_histogram(told, took, stage=name, status=status)


def check_histogram(told: Scrape, took: list[float], **labels: str) -> None:
    assert told.of("regraft_stage_seconds_count", **labels) == len(took), labels
    assert told.of("regraft_stage_seconds_sum", **labels) == pytest.approx(sum(took), abs=1e-3)
    for edge in ("1.0", "5.0", "60.0", "+Inf"):
        below = sum(seconds < float(edge) for seconds in took)
        assert told.of("regraft_stage_seconds_bucket", le=edge, **labels) == below, (labels, edge)


def seconds_of(attempt: dict[str, Any]) -> float:
    begun, ended = (datetime.fromisoformat(attempt[name]) for name in ("started_at", "finished_at"))
    return (ended - begun).total_seconds()
