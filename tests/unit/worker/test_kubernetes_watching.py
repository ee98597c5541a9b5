"""Pods that wait, that hang, and that stay when their node is lost: what the worker says and does about each."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_stages import POD, TASK

from helpers import eventually, spec
from kubernetes_double import Double, kubernetes_double
from regraft.jobs import StageName
from regraft.plan import task_for
from regraft.ports import Level, NullProgress
from regraft.specs import TrainTask
from regraft_worker.kubernetes import ending, objects, output
from regraft_worker.kubernetes.objects import Run
from regraft_worker.kubernetes.options import Options
from regraft_worker.kubernetes.output import MARK
from regraft_worker.kubernetes.run import HungError, LostError, run

HERE = json.dumps({"type": "event", "message": "here", "level": "info", "data": None})


class Said(NullProgress):
    """A `Progress` that remembers what is told about the cluster."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.conditions: list[str] = []

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        self.events.append((message, dict(data or {})))

    def condition(self, reason: str, message: str) -> None:
        self.conditions.append(reason)

    def await_event(self, text: str) -> None:
        eventually(lambda: any(message == text for message, _ in self.events), what=text)


@contextmanager
def running(progress: NullProgress, *, devices: int) -> Iterator[Future[dict[str, Any]]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run, "train", TASK, devices=devices, progress=progress, options=Options.of(os.environ))


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """A cluster whose pods say that they are there, and then nothing."""
    pod: dict[str, Any] = copy.deepcopy(POD)
    pod["spec"]["terminationGracePeriodSeconds"] = 0
    pod["spec"]["containers"][0]["command"] = ["sh", "-c", f"echo '{MARK}{HERE}'; exec sleep 60"]
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    own = {"POD": str(tmp_path / "pod.yaml"), "DEVICE": "cpu", "NODE_DEVICES": "1", "NODES": "2"}
    with kubernetes_double(tmp_path) as (found, environment):
        for name, value in {
            **environment,
            **{f"REGRAFT_KUBERNETES_{name}": value for name, value in own.items()},
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("REGRAFT_HANG_SECONDS", "2")
        monkeypatch.setattr(ending, "_LATE_SECONDS", 0.5)
        monkeypatch.setattr(ending, "_LOOK_SECONDS", 0.1)
        yield found


@pytest.mark.parametrize("planted", ["", "a pod that waits counts as silent"])
def test_a_pod_that_waits_for_a_node_is_not_hung(double: Double, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    if planted:
        monkeypatch.setattr(output, "_TELLS", ("Pending", "Running"))
    double.has_room = False
    said = Said()
    with running(said, devices=1) as ended:
        # A look at its log each second: longer than a pod may be silent.
        eventually(lambda: double.requests.count(("GET", "pods/log")) >= 4 or ended.done(), what="four looks")
        assert ended.done() is bool(planted)
        double.has_room = True
        with pytest.raises(HungError):
            ended.result(30)
    assert said.conditions == [], "it ends within its grace period"


def test_a_pod_whose_node_is_lost_is_told_of_until_somebody_forces_it_away(double: Double) -> None:
    said = Said()
    with running(said, devices=1) as ended:
        said.await_event("here")
        double.strand(0)
        eventually(lambda: ended.done() or said.conditions, what="the word")
        double.out_of_order = True
        time.sleep(1)  # some looks
        assert not ended.done(), "a server that is away is borne"
        double.out_of_order = False
        double.force_away()
        with pytest.raises(HungError):
            ended.result(30)
    check_word(said, double)


def test_a_job_that_cannot_fail_because_of_a_lost_node_is_told_of(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_HANG_SECONDS", "600")
    said = Said()
    with running(said, devices=2) as ended:
        said.await_event("here")
        double.strand(0)
        double.lose_node(1)
        eventually(lambda: ended.done() or said.conditions, what="the word")
        assert not ended.done(), "another attempt would not find the pods ended"
        double.force_away()
        with pytest.raises(LostError):
            ended.result(60)
    check_word(said, double)


def check_word(said: Said, double: Double) -> None:
    assert set(said.conditions) == {"pod_terminating"}
    (text, data) = next(event for event in said.events if "pods" in event[1] and "grace period" in event[0])
    assert data["nodes"] == ["node-0"]
    assert "out-of-service" in text
    assert f"{data['pods'][0]} on node-0" in text  # type: ignore[index]


def attempt(epoch: int, *, version: type[TrainTask] = TrainTask, **changes: Any) -> str:
    """The digest of the Job of a real attempt."""
    results = {StageName.PREPARE: {"uri": "/data"}, StageName.CONVERT: {"uri": "/base"}}
    job = spec(**changes)
    made = task_for(StageName.TRAIN, job_id="j", spec=job, results=results, storage="file:///s", epoch=epoch)
    text = version.model_validate(made.model_dump(mode="json", by_alias=True)).model_dump_json(by_alias=True)
    return Run(stage="train", stage_id="j.train", epoch=epoch, task=text, nodes=1, devices=1, environment={}).digest


class TaskOfTomorrow(TrainTask):
    """As the next minor version may have it."""

    pieces: int = 4


def test_an_attempt_takes_over_what_an_earlier_one_or_an_earlier_version_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert attempt(1) == attempt(2, priority="p1")
    training = spec().model_dump(mode="json", by_alias=True)["training"]
    assert attempt(1) != attempt(1, training={**training, "seed": 77})
    before = attempt(1)
    monkeypatch.setattr(objects, "_TASKS", {"train": TaskOfTomorrow})
    assert attempt(2, version=TaskOfTomorrow) == before
    monkeypatch.setattr(objects, "_WHO_ASKS", set())
    assert attempt(1) != attempt(2), "the planted error: the number of the attempt counts"
