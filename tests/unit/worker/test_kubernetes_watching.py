"""Pods that wait, that hang, and that stay when their node is lost: what the worker says and does about each."""

from __future__ import annotations

import copy
import json
import os
import threading
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
from regraft.errors import InterruptedStageError
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

    @property
    def told(self) -> list[str]:
        """What the pod has said."""
        return [message for message, data in self.events if not data]

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
    monkeypatch.setattr(ending, "_LATE_SECONDS", 60.0)
    if planted:
        monkeypatch.setattr(output, "_TELLS", ("Pending", "Running"))
    double.has_room = False
    said = Said()
    with running(said, devices=1) as ended:
        # A look at its log each second: longer than a pod may be silent.
        looks = lambda: 0 if planted else double.requests.count(("GET", "pods/log"))  # noqa: E731
        eventually(lambda: looks() >= 4 or ended.done(), what="four looks")
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


class Leaves(Said):
    """Leaves once a text was told and all that the pod says was read, after so many further looks at that."""

    def __init__(self, text: str, read: threading.Event, *, looks: int) -> None:
        super().__init__()
        self.text, self.read, self.looks = text, read, looks

    def should_stop(self) -> bool:
        if self.text not in self.told:
            return False
        Path("go").touch()
        assert self.read.wait(30)
        self.looks -= 1
        return self.looks < 0

    def may_leave(self) -> bool:
        return True


def test_what_was_read_and_not_handed_on_when_a_worker_leaves_is_told_by_the_next(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes between the last look and the mark on the Job; and a result, which is told only at the Job's end."""
    monkeypatch.setenv("REGRAFT_HANG_SECONDS", "60")
    monkeypatch.chdir(tmp_path)
    template, there = yaml.safe_load(Path("pod.yaml").read_text()), HERE.replace("here", "there")
    result = f"echo '{MARK}{json.dumps({'type': 'result', 'result': {'n': 1}})}'; echo all of it"
    script = [f"echo '{MARK}{HERE}'", until("go"), f"echo '{MARK}{there}'", result, until("end")]
    template["spec"]["containers"][0]["command"] = ["sh", "-c", "; ".join(script)]
    Path("pod.yaml").write_text(yaml.safe_dump(template))
    marked, read = output.said, threading.Event()
    monkeypatch.setattr(output, "said", lambda text: read.set() if text == "all of it" else marked(text))

    first, second, third = Leaves("here", read, looks=0), Leaves("there", read, looks=1), Said()
    for leaves in (first, second):
        with running(leaves, devices=1) as ended, pytest.raises(InterruptedStageError):
            ended.result(60)
        read.clear()
    Path("end").touch()
    with running(third, devices=1) as ended:
        assert ended.result(60) == {"n": 1}
    assert [first.told, second.told, third.told] == [["here"], ["there"], []], "nothing is lost, nothing told twice"


def until(name: str) -> str:
    """In a shell: wait for a file."""
    return f"until [ -e {name} ]; do sleep 0.05; done"


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
