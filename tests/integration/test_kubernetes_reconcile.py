"""Kubernetes Jobs that are left over: which of them are deleted, by the database's word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine

from helpers import eventually, spec
from kubernetes_double import Double, kubernetes_double
from regraft.jobstore import Claim, Control, Jobs, Leases, Outcome
from regraft.settings import Settings
from regraft_worker import tasks
from regraft_worker.kubernetes.api import ApiError, UnreachableError
from regraft_worker.kubernetes.cluster import Cluster
from regraft_worker.kubernetes.objects import Run
from regraft_worker.kubernetes.options import Options
from regraft_worker.reconcile import Reconciler, sweep_kubernetes

TEMPLATE = {"spec": {"containers": [{"name": "regraft", "image": "worker:1", "env": []}]}}
TASK = '{"dataset_uri": "/d", "checkpoints": {}, "batch_size": 1, "target": {"kind": "cpu"}, "output_uri": "/out"}'
Planted = Callable[[str, int], str]


@pytest.fixture
def options(tmp_path: Path) -> Iterator[tuple[Double, dict[str, str]]]:
    """A cluster whose queue admits nothing: no pod is started."""
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(TEMPLATE))
    with kubernetes_double(tmp_path) as (double, environment):
        own = {"REGRAFT_KUBERNETES_POD": str(tmp_path / "pod.yaml"), "REGRAFT_KUBERNETES_QUEUE": "full"}
        yield double, {**environment, **own}


@pytest.fixture
def double(options: tuple[Double, dict[str, str]]) -> Double:
    return options[0]


@pytest.fixture
def cluster(options: tuple[Double, dict[str, str]]) -> Cluster:
    return Cluster(Options.of(options[1]))


@pytest.fixture
def planted(cluster: Cluster) -> Planted:
    def plant(job: str, epoch: int) -> str:
        run = Run(
            stage="evaluate", stage_id=f"{job}.prepare", epoch=epoch, task=TASK, nodes=1, devices=1, environment={}
        )
        return str(cluster.create(run)["metadata"]["name"])

    return plant


def claimed(leases: Leases, job: str) -> Claim:
    claim = leases.claim(f"{job}.prepare", worker="w")
    assert claim is not None
    return claim


def test_a_job_that_no_attempt_will_take_over_is_deleted(
    engine: Engine, settings: Settings, double: Double, cluster: Cluster, planted: Planted
) -> None:
    jobs, leases = Jobs(engine), Leases(engine, settings)
    watched, left, paused, ended = (jobs.create(spec()).id for _ in range(4))
    claims = {job: claimed(leases, job) for job in (watched, left, paused, ended)}
    made = {job: planted(job, claim.epoch) for job, claim in claims.items()}
    others = planted("job-of-another-deployment", 1)
    later = planted(ended, claims[ended].epoch + 1)  # what this look knows is older than that
    # Their workers leave, and the Jobs go on; one stage is cancelled, and its Job has ended by itself.
    for job in (left, paused):
        leases.finish(claims[job], Outcome(status="released"))
    jobs.cancel(ended)
    leases.finish(claims[ended], Outcome(status="cancelled", reason="cancelled"))
    double._end(double.jobs[made[ended]], "Complete")
    assert sweep_kubernetes(engine, cluster) == [], "each is watched, waits for its next attempt, or is over"

    jobs.cancel(left)
    Control(engine).pause(paused)
    assert sorted(sweep_kubernetes(engine, cluster)) == sorted([made[left], made[paused]])
    eventually(lambda: set(double.jobs) == {made[watched], made[ended], others, later}, what="the end of the two")
    assert sweep_kubernetes(engine, cluster) == []
    (over,) = double.jobs[made[ended]]["status"]["conditions"]
    over["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    assert sweep_kubernetes(engine, cluster) == [made[ended]], "its logs have been kept for their time"


def test_a_job_that_is_taken_over_at_the_same_moment_is_left(
    double: Double, cluster: Cluster, planted: Planted
) -> None:
    name = planted("job-1", 1)
    (seen,) = cluster.jobs()
    cluster.take_over(seen, 2)
    cluster.delete(seen, if_unchanged=True)
    assert "deletionTimestamp" not in double.jobs[name]["metadata"]
    cluster.delete(seen)
    assert "deletionTimestamp" in double.jobs[name]["metadata"]  # what the guard was against


def test_a_worker_that_offers_kubernetes_looks_now_and_then_and_bears_that_nobody_answers(
    engine: Engine, options: tuple[Double, dict[str, str]], planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, environment = options
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    job = Jobs(engine).create(spec()).id
    name = planted(job, 0)
    Jobs(engine).cancel(job)
    assert list(tasks._sweeps({"cpu": {}}, engine)) == []
    (sweep,) = tasks._sweeps({"kubernetes": {}}, engine)
    failed: list[type[Exception]] = []

    def looked() -> None:
        try:
            sweep()
        except (ApiError, UnreachableError) as error:
            failed.append(type(error))
            raise

    double.out_of_order = True
    reconciler = Reconciler(looked, seconds=0.02)
    reconciler.start()
    try:
        eventually(lambda: len(failed) > 1, what="two looks in vain")
        assert name in double.jobs
        double.out_of_order = False
        eventually(lambda: name not in double.jobs, what="the end of the Job")
    finally:
        reconciler.stop()
