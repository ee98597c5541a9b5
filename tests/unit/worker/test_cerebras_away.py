"""Clients that cannot reach the cluster, are killed, or refuse the job: scripts in the client's place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny_runs
from cerebras_runs import Cluster, Watched

from appliance.board import Board
from regraft.errors import InterruptedStageError
from regraft.jobs import ReasonClass
from regraft.specs import AttemptRef, PreflightResult, PreflightTask
from regraft_worker.cerebras.away import Away
from regraft_worker.cerebras.client import killed_by
from regraft_worker.cerebras.csctl import Csctl
from regraft_worker.cerebras.preflight import preflight
from regraft_worker.cerebras.states import ApplianceError

AWAY = "echo 'grpc: the cluster server is UNAVAILABLE'; exit 1"
STEP = "echo '2026-01-01 00:00:00,000 INFO:   | Train Device=CSX, Step=1, Loss=3.5, Rate=1.00 samples/sec'"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_runs.write_model(folder / "base")
    tiny_runs.write_dataset(folder / "dataset")
    return folder


@pytest.fixture
def cluster(inputs: Path, tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, inputs)


def plant_client(cluster: Cluster, *lives: str) -> Path:
    """A client that does the first of these in its first life, and so on; what it was started for is written down."""
    folder = cluster.appliance.folder
    starts = folder / "starts"
    cases = "\n".join(f"{number}) {life} ;;" for number, life in enumerate(lives, start=1))
    path = folder / "bin" / "planted"
    path.write_text(f'#!/bin/bash\necho "$@" >> {starts}\ncase $(wc -l < {starts}) in\n{cases}\n*) exit 0 ;;\nesac\n')
    path.chmod(0o755)
    cluster.site = cluster.site.model_copy(update={"client": str(path)})
    return starts


def look(cluster: Cluster, said: Watched, *, epoch: int = 1) -> PreflightResult:
    task = cluster.task()
    asked = PreflightTask(
        checkpoint_uri=task.checkpoint_uri,
        max_sequence_length=tiny_runs.LENGTH,
        training=task.training,
        target=task.target.model_copy(update={"preflight": "compile"}),
        output_uri=str(cluster.output),
        attempt=AttemptRef(job="job-0123", stage="preflight", epoch=epoch),
    )
    return preflight(asked, said, site=cluster.site)


def waits(said: Watched) -> list[float]:
    """Seconds that were announced, of each wait for the cluster."""
    found = (re.search(r"asked again in (\S+) s", message) for _, message in said.conditions)
    return [float(match[1]) for match in found if match]


def test_waits_double_up_to_the_longest_until_something_was_done(cluster: Cluster) -> None:
    """No time passes: whoever waits is asked to stop."""
    site = cluster.site.model_copy(update={"backoff_seconds": 5.0, "backoff_max_seconds": 30.0})
    said = Watched(lambda said: True)
    away = Away(said, Csctl(site), site)

    def wait() -> None:
        with pytest.raises(InterruptedStageError):
            away.wait("away")

    for _ in range(4):
        wait()
    away.over()
    wait()
    assert waits(said) == [5, 10, 20, 30, 5]
    assert {reason for reason, _ in said.conditions} == {"appliance_unreachable"}


def test_a_preflight_waits_for_a_cluster_that_the_client_cannot_reach(cluster: Cluster) -> None:
    starts = plant_client(cluster, AWAY, AWAY, AWAY)
    said = Watched()
    assert look(cluster, said).checked == "compile"
    assert waits(said) == [0.2, 0.4, 0.4]
    assert len(starts.read_text().splitlines()) == 4


def test_a_preflight_waits_for_a_cluster_that_csctl_cannot_reach(cluster: Cluster) -> None:
    """At its start, and when a client fails of something else at the same time."""
    cluster.appliance.set(csctl="unavailable")
    control = cluster.appliance.state / "control.json"
    starts = plant_client(cluster, f'sed -i \'s/"csctl": "ok"/"csctl": "unavailable"/\' {control}; exit 1')

    mended: list[int] = []

    def back(said: Watched) -> bool:
        if (number := len(waits(said))) in (2, 4) and number not in mended:
            mended.append(number)
            cluster.appliance.set(csctl="ok")
        return False

    said = Watched(back)
    assert look(cluster, said).release == "2.10"
    assert len(waits(said)) == 4
    assert len(starts.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("life", "reason", "class_"),
    [
        ("kill -BUS $$", "appliance_client_failed", "infrastructure"),
        ("exit 138", "appliance_client_failed", "infrastructure"),
        ("echo '1 validation error: num_steps'; exit 1", "preflight_failed", "user_error"),
        ("echo 'ApplianceCompilationError: too large'; exit 1", "compilation_failed", "user_error"),
        (f"{AWAY.partition(';')[0]}; echo 'Job id: wsjob-1'; exit 2", "preflight_failed", "user_error"),
    ],
)
def test_a_preflight_fails_of_what_the_client_says_or_dies_of(
    life: str, reason: str, class_: str, cluster: Cluster
) -> None:
    starts = plant_client(cluster, life)
    with pytest.raises(ApplianceError) as caught:
        look(cluster, Watched())
    assert (caught.value.reason, caught.value.reason_class) == (reason, ReasonClass(class_))
    assert len(starts.read_text().splitlines()) == 1


def test_a_preflight_first_ends_what_an_earlier_attempt_left(cluster: Cluster) -> None:
    def plant(epoch: int, stage: str) -> str:
        labels = {"regraft-job": "job-0123", "regraft-stage": stage, "regraft-epoch": str(epoch)}
        job = cluster.appliance.plant(seconds=1e6)
        Board(cluster.appliance.state).change(job, labels=labels)
        return job

    left, other = plant(1, "preflight"), plant(1, "train")
    starts = plant_client(cluster, f"grep -q '\"cancel\"' {cluster.appliance.state}/calls.jsonl; exit $?")
    look(cluster, Watched(), epoch=2)
    assert cluster.cancels() == [left]
    phases = {job["id"]: job["phase"] for job in cluster.appliance.jobs()}
    assert phases[left] == "CANCELLED" != phases[other]
    assert len(starts.read_text().splitlines()) == 1


def test_a_run_waits_longer_each_time_and_fills_no_disk(cluster: Cluster) -> None:
    """csctl answers all the while; a step makes the waits short again."""
    plant_client(cluster, AWAY, AWAY, f"{STEP}; {AWAY}", AWAY)
    left: list[int] = []

    def enough(said: Watched) -> bool:
        if len(left) < len(waits(said)):  # the wait has just begun
            left.append(len(list(cluster.output.rglob("*.mdl"))))
        return len(left) == 4

    said = Watched(enough)
    with pytest.raises(InterruptedStageError):
        cluster.train(said)
    assert waits(said) == [0.2, 0.4, 0.2, 0.4]
    assert left == [0, 0, 0, 0]
    assert said.metrics["train_loss"] == {1: 3.5}


def test_signals_are_told_from_statuses() -> None:
    assert [killed_by(status) for status in (-9, 137, 138, -10, 0, 1, 2, 128, 255)] == [
        *(9, 9, 10, 10),
        *([None] * 5),
    ]
