"""What `/metrics` of a running API tells of real work: queues before a worker comes, a training, a worker's death."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, deployment
from prometheus_client.parser import text_string_to_metric_families

from helpers import eventually, key_for
from regraft.settings import Settings


class Scrape:
    """The samples of one moment, read as Prometheus reads them."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        samples = [sample for family in families for sample in family.samples]
        self._values = {(one.name, frozenset(one.labels.items())): one.value for one in samples}

    def of(self, name: str, **labels: str) -> float:
        """The value with exactly these labels; not a number if there is none."""
        return self._values.get((name, frozenset(labels.items())), math.nan)


@dataclass(frozen=True)
class Told:
    """What was scraped, and how the job stood in the end."""

    job: dict[str, Any]
    waiting: Scrape
    training: Scrape
    ended: Scrape


@pytest.fixture(scope="module")
def told(module_settings: Settings, inputs: Path) -> Iterator[Told]:
    """A job waits, trains, loses its worker, and is cancelled when it trains again."""
    settings = module_settings.model_copy(update={"check_files": False})
    with pytest.MonkeyPatch.context() as patch, deployment(settings, "api", "dispatcher") as running:
        patch.setenv("OMP_NUM_THREADS", "1")
        job_id = running.submit(long_job(inputs))
        waiting = scraped_once(running, lambda now: now.of("regraft_queue_oldest_seconds", queue="convert") > 0.2)
        running.start("dataprep", "worker")
        training = scraped_once(running, lambda now: now.of("regraft_training_tokens_per_second", job_id=job_id) > 0)
        running.kill("worker")
        running.start("worker")
        eventually(lambda: len(running.stage(job_id, "train")["attempts"]) == 2, seconds=60, what="the next attempt")
        running.client.cancel_job(job_id)
        job = running.await_end(job_id)
        # Attempts are counted now and then only.
        ended = scraped_once(running, lambda now: now.of("regraft_jobs", status="cancelled") == 1)
        yield Told(job, waiting, training, ended)


def long_job(inputs: Path) -> dict[str, Any]:
    return {
        "dataset": {"uri": str(inputs / "corpus"), "max_sequence_length": 64},
        "base_checkpoint": {"uri": str(inputs / "gptj")},
        "target": {"kind": "cpu"},
        "training": {"batch_size": 8, "max_steps": 100_000, "log_every_steps": 1},
    }


def scraped_once(running: Deployment, holds: Any) -> Scrape:
    """The first scrape of which that is true."""
    url, key = f"http://127.0.0.1:{running.settings.api_port}/metrics", key_for(running.settings)

    def scrape() -> Scrape | None:
        now = Scrape(httpx.get(url, headers=key).raise_for_status().text)
        return now if holds(now) else None

    found: Scrape = eventually(scrape, seconds=90, what="what was waited for in /metrics")
    return found


def test_how_much_waits_in_each_queue_and_since_when(told: Told) -> None:
    for queue in ("prepare", "convert"):
        assert told.waiting.of("regraft_queue_ready_stages", queue=queue) == 1
        assert 0 < told.waiting.of("regraft_queue_oldest_seconds", queue=queue) < 60
        assert math.isnan(told.training.of("regraft_queue_ready_stages", queue=queue)), "nothing waits there any more"
    assert told.training.of("regraft_queue_running_stages", queue="train.cpu") == 1


def test_the_pace_of_a_training_while_it_runs(told: Told) -> None:
    name = "regraft_training_tokens_per_second"
    assert 100 < told.training.of(name, job_id=told.job["id"]) < 1e7, "8 windows of 64 tokens a step"
    assert math.isnan(told.ended.of(name, job_id=told.job["id"]))


def test_how_long_attempts_at_each_stage_took(told: Told) -> None:
    attempts = [(stage["name"], one) for stage in told.job["stages"] for one in stage["attempts"]]
    assert [(name, one["status"]) for name, one in attempts] == [
        ("prepare", "succeeded"),
        ("convert", "succeeded"),
        ("train", "failed"),
        ("train", "cancelled"),
    ]
    for name, one in attempts:
        labels = {"stage": name, "status": one["status"]}
        took = (datetime.fromisoformat(one["finished_at"]) - datetime.fromisoformat(one["started_at"])).total_seconds()
        assert told.ended.of("regraft_stage_seconds_count", **labels) == 1
        assert told.ended.of("regraft_stage_seconds_sum", **labels) == pytest.approx(took, abs=1e-3)
        for edge in (1.0, 60.0, math.inf):
            bucket = told.ended.of("regraft_stage_seconds_bucket", le=str(edge).replace("inf", "+Inf"), **labels)
            assert bucket == (took < edge), (name, edge)


def test_how_many_leases_were_lost(told: Told) -> None:
    assert told.ended.of("regraft_leases_lost_total", stage="train") == 1
    assert told.ended.of("regraft_leases_lost_total", stage="prepare") == 0
