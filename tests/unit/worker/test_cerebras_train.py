"""The stage `train` on the appliance's double: results, stops, leftovers, a cluster that is away, files half written.

Every client starts Python and torch anew, which is most of the time that these tests take.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import tiny_runs
import torch
from cerebras_runs import Cluster, Watched, farthest, soon
from safetensors.torch import load_file

from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.jobs import ReasonClass
from regraft.specs import TargetSpec, TrainResult, TrainTask
from regraft.storage import local_path
from regraft_worker.cerebras.pickup import Settled
from regraft_worker.cerebras.states import ApplianceError
from regraft_worker.cerebras.train import train
from regraft_worker.trainer import loop
from regraft_worker.trainer.checkpoint import read_state
from regraft_worker.trainer.schedule import schedule_of
from regraft_worker.zoo.mdl import Position, write_mdl

TOLERANCE = 1e-5
OPTIONS = {"evaluate": {"every_steps": 6, "at_start": False}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_runs.write_model(folder / "base")
    tiny_runs.write_dataset(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def expected(inputs: Path) -> TrainResult:
    """The same run on the processor."""
    return loop.train(tiny_runs.task(inputs, inputs / "cpu", **OPTIONS))


@pytest.fixture
def cluster(inputs: Path, tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, inputs)


def test_a_run_ends_with_the_weights_of_the_processor(cluster: Cluster, expected: TrainResult) -> None:
    cluster.appliance.set(split_lines=True, compile_seconds=1e6, queue_seconds=1e6, hold_checkpoint=9)
    waits = {"waiting_for_appliance": "queue_seconds", "compiling": "compile_seconds"}

    def let_on(said: Watched) -> bool:
        """It waits, and compiles, until that was seen.

        None is beyond the client's own retention before it is fetched: 9 ends that of 3, and 12 that of 6.
        """
        seen = {wait: 0.0 for reason, wait in waits.items() if reason in said.reasons}
        cluster.appliance.set(hold_checkpoint={0: 9, 1: 12}.get(len(said.checkpoints), 0), **seen)
        return False

    said = Watched(let_on)
    found = cluster.train(said, checkpoint={"every_steps": 3, "keep_last": 2})
    assert farthest(expected.uri, found.uri) < TOLERANCE
    assert found.train_loss == pytest.approx(expected.train_loss, abs=1e-5)
    assert said.checkpoints == [f"step-{step:08d}" for step in (3, 6, 9, 12)]
    assert said.pruned == ["step-00000003", "step-00000006"]
    assert said.reasons[:2] == ["waiting_for_appliance", "compiling"]
    assert "1 of 1" in said.conditions[0][1]
    assert sorted(said.metrics["train_loss"]) == list(range(1, 13))
    assert sorted(said.metrics["val_loss"]) == sorted(said.metrics["val_accuracy"]) == [6, 12]
    assert [data["mode"] for _, data in said.events if "wsjob" in data] == ["compile", "execute"]
    (labels,) = {tuple(sorted(job["labels"].items())) for job in cluster.appliance.jobs()}
    assert dict(labels) == {
        "regraft-job": "job-0123",
        "regraft-stage": "train",
        "regraft-attempt": "train-1",
        "regraft-epoch": "1",
    }
    assert cluster.cancels() == []
    assert not list(cluster.output.rglob("*.mdl"))


def test_weights_that_are_a_little_off_would_be_seen(inputs: Path, expected: TrainResult) -> None:
    other = loop.train(tiny_runs.task(inputs, inputs / "other", **OPTIONS, learning_rate=3.1e-3))
    assert farthest(expected.uri, other.uri) > 10 * TOLERANCE


def test_an_old_client_is_driven_too(inputs: Path, tmp_path: Path) -> None:
    """Unshuffled, because the reader of 1.9 has an order of its own; here it is ours."""
    cluster = Cluster(tmp_path, inputs, release="1.9")
    options = {"shuffle": False, "max_steps": 3}
    found = cluster.train(Watched(), **options)
    expected = loop.train(tiny_runs.task(inputs, tmp_path / "cpu", **OPTIONS, **options))
    assert farthest(expected.uri, found.uri) < TOLERANCE


def test_a_checkpoint_that_is_being_written_is_let_alone(inputs: Path, tmp_path: Path) -> None:
    """Up to release 2.5 half a file lies under its final name, and may do so for longer than it takes to settle."""
    cluster = Cluster(tmp_path, inputs, release="2.2", hold_checkpoint=3)
    began: list[float] = []

    def let_go(said: Watched) -> bool:
        half = [path for path in cluster.output.rglob("checkpoint_3.mdl") if path.stat().st_size]
        if not half or len(began) > 1:
            return False
        assert said.checkpoints == []
        began.extend([time.monotonic()] * (not began))
        if time.monotonic() - began[0] > 5 * cluster.site.settle_seconds:
            began.append(time.monotonic())
            cluster.appliance.set(hold_checkpoint=0)
        return False

    said = Watched(let_go)
    cluster.train(said, max_steps=3)
    assert len(began) == 2
    assert said.checkpoints == ["step-00000003"]


def saved_there(folder: Path, step_folder: Path, cluster: Cluster, *, step: int) -> Path:
    """A checkpoint of the client's, made of one of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    training = cluster.task().training
    position = Position(samples=4 * step, seed=training.seed, map_style=True, shuffle=True)
    path = folder / f"checkpoint_{step}.mdl"
    write_mdl(path, step_folder, step=12, training=training, era="2.10", position=position)
    return path


def test_what_was_finished_while_nobody_looked_is_not_run_again(cluster: Cluster, expected: TrainResult) -> None:
    """The client has ended well, and whoever watched it did not live to take anything in."""
    here = local_path(expected.uri)
    folder = cluster.output / "cerebras" / "00000001-0"
    saved_there(folder, here, cluster, step=12)
    line = "2026-01-01 00:00:0{0},000 INFO:   | Train Device=CSX, Step={1}, Loss={2}, Rate=1.00 samples/sec"
    lines = [line.format(0, 11, "2.90000"), line.format(1, 12, "2.77969")]
    (folder / "cerebras_logs" / "1").mkdir(parents=True)
    (folder / "cerebras_logs" / "1" / "run.log").write_text("\n".join(lines) + "\n")

    said = Watched()
    found = cluster.train(said, epoch=2)
    assert cluster.appliance.jobs() == []
    assert (found.step, found.train_loss) == (12, 2.77969)
    assert farthest(expected.uri, found.uri) == 0.0
    assert said.checkpoints == ["step-00000012"]
    assert said.metrics["train_loss"] == {11: 2.9, 12: 2.77969}
    moments = "training_state/optimizer.safetensors"
    ours, theirs = (load_file(folder / moments) for folder in (here, local_path(found.uri)))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    state = read_state(local_path(found.uri))
    assert (state.dataloader.samples_streamed, state.updates(), state.ledger) == (48, 12, None)


def test_a_checkpoint_of_another_step_is_refused(cluster: Cluster, expected: TrainResult) -> None:
    saved_there(cluster.output / "cerebras" / "00000001-0", local_path(expected.uri), cluster, step=9)
    with pytest.raises(InvalidDataError, match="of another step"):
        cluster.train(Watched(), epoch=2)
    assert not list(cluster.output.glob("step-*"))


def test_a_stop_interrupts_the_client_and_ends_its_jobs_once(cluster: Cluster) -> None:
    """The client does not heed SIGINT: csctl has to."""
    cluster.appliance.set(sigint="ignored", hold_checkpoint=6)
    cluster.site = cluster.site.model_copy(update={"interrupt_seconds": 0.5})
    with pytest.raises(InterruptedStageError):
        cluster.train(Watched(lambda said: "step-00000003" in said.checkpoints))
    assert cluster.phases() == [("compile", "SUCCEEDED"), ("execute", "CANCELLED")]
    assert len(cluster.cancels()) == 1
    assert not cluster.clients()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"queue_seconds": 1e6}, "waiting_for_appliance"), ({"compile_seconds": 1e6}, "compiling")],
)
def test_a_stop_before_anything_runs(asked: dict[str, float], reason: str, cluster: Cluster) -> None:
    cluster.appliance.set(**asked)
    with pytest.raises(InterruptedStageError):
        cluster.train(Watched(lambda said: reason in said.reasons))
    assert cluster.phases() == [("compile", "CANCELLED")]
    assert len(cluster.cancels()) <= 1  # the client may have done it itself
    assert not cluster.clients()


def test_leftovers_of_earlier_attempts_are_cancelled_by_label_and_what_they_saved_is_taken_in(
    cluster: Cluster, expected: TrainResult
) -> None:
    """The supervisor was killed, the stage and the client with it; the cluster has not noticed yet."""
    cluster.appliance.set(lease_seconds_real=300.0, hold_checkpoint=6)
    pid = os.fork()
    if pid == 0:
        try:
            cluster.train(Watched(lambda said: "step-00000003" in said.checkpoints and die()))
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    soon(lambda: not cluster.clients())
    assert cluster.phases()[-1] == ("execute", "RUNNING")
    stranger = cluster.appliance.plant(seconds=1e6)

    cluster.appliance.set(hold_checkpoint=0, systems=3)
    said = Watched()
    found = cluster.train(said, epoch=2)
    assert farthest(expected.uri, found.uri) < TOLERANCE
    assert [text for text, _ in said.events if text.startswith("going on from step")]
    ours = cluster.appliance.jobs(**{"regraft-epoch": "1"})
    (orphan,) = (job for job in ours if job["kind"] == "execute")
    assert cluster.cancels() == [orphan["id"]]
    assert orphan["phase"] == "CANCELLED"
    assert next(job for job in cluster.appliance.jobs() if job["id"] == stranger)["phase"] == "RUNNING"


def test_a_cluster_that_is_away_is_waited_for(cluster: Cluster, expected: TrainResult) -> None:
    """At the start, and in the middle of the run for longer than the client bears."""
    cluster.appliance.set(reachable=False, retry_seconds_real=0.5, drop_at_step=5, drop_seconds_real=1e6)
    cluster.appliance.set(lease_seconds_real=300.0)

    def back_in_time(said: Watched) -> bool:
        away = [reason for reason, _ in said.conditions if reason == "appliance_unreachable"]
        dropped = bool(said.metrics)
        if len(away) >= (5 if dropped else 2):
            cluster.appliance.set(reachable=True)
        return False

    said = Watched(back_in_time)
    found = cluster.train(said)
    assert farthest(expected.uri, found.uri) < TOLERANCE
    assert said.reasons[0] == "appliance_unreachable"
    asked = cluster.appliance.calls()
    assert len(asked) < 200  # no busy loop
    done, lost = ("execute", "SUCCEEDED"), ("execute", "CANCELLED")
    assert cluster.phases() == [("compile", "SUCCEEDED"), lost, ("compile", "SUCCEEDED"), done]
    assert [job.get("cancels", 0) for job in cluster.appliance.jobs()] == [0, 1, 0, 0]


def failing(name: str, *, where: str) -> dict[str, object]:
    return {"failures": [{"class": name, "where": where}]}


@pytest.mark.parametrize(
    ("asked", "reason", "class_"),
    [
        (failing("ApplianceCompilationError", where="compile"), "compilation_failed", "user_error"),
        (failing("ApplianceResourceExhausted", where="submit"), "appliance_full", "capacity"),
        ({"server_version": "2.4"}, "appliance_version_mismatch", "user_error"),
        ({"nan_at_step": 4}, "loss_not_finite", "data_error"),
        ({"no_marker": True}, "appliance_incomplete", "infrastructure"),
    ],
)
def test_a_failure_says_who_can_mend_it(asked: dict[str, object], reason: str, class_: str, cluster: Cluster) -> None:
    cluster.appliance.set(**asked)
    with pytest.raises(ApplianceError) as caught:
        cluster.train(Watched(), max_steps=4, checkpoint={"every_steps": 4}, evaluate={"every_steps": None})
    assert (caught.value.reason, caught.value.reason_class) == (reason, ReasonClass(class_))
    assert not cluster.clients()


def test_a_client_that_dies_in_a_checkpoint_leaves_nothing_that_counts(inputs: Path, tmp_path: Path) -> None:
    """Release 2.4 writes in place: half a file lies there under its final name."""
    cluster = Cluster(tmp_path, inputs, release="2.4", die_in_checkpoint=6, lease_seconds_real=300.0)
    said = Watched()
    with pytest.raises(ApplianceError, match="signal 9") as caught:
        cluster.train(said)
    assert caught.value.reason_class is ReasonClass.INFRASTRUCTURE
    (half,) = cluster.output.rglob("checkpoint_6.mdl")
    assert Settled(settle_seconds=0).whole(half.parent, after=3, written=True) == []
    assert said.checkpoints == ["step-00000003"]


def test_what_the_site_does_not_have_is_refused_before_anything_is_started(cluster: Cluster, tmp_path: Path) -> None:
    task = cluster.task()
    other = task.model_copy(update={"target": task.target.model_copy(update={"release": "2.4"})})
    with pytest.raises(InvalidInputError, match=r"target\.release"):
        train(other, Watched(), site=cluster.site)
    for setting, value in {"mount_dirs": str(tmp_path / "appliance"), "csctl": "/nowhere", "mgmt_address": ""}.items():
        with pytest.raises(InvalidInputError, match="REGRAFT_CEREBRAS_"):
            train(task, Watched(), site=cluster.site.model_copy(update={setting: value}))
    assert cluster.appliance.jobs() == []


def test_a_run_goes_from_the_processor_to_the_cluster_and_back(cluster: Cluster, expected: TrainResult) -> None:
    to_cpu = cluster.task().model_copy(update={"target": TargetSpec(kind="cpu")})
    first = to_cpu.model_copy(update={"training": to_cpu.training.model_copy(update={"max_steps": 3})})
    loop.train(schedule_kept(first, to_cpu), Watched())

    said = Watched()
    there = schedule_kept(cluster.task(max_steps=9, checkpoint={"every_steps": 3}), to_cpu)
    train(there, said, site=cluster.site)
    (handed,) = (data for text, data in said.events if text.startswith("handed over"))
    assert (handed["from"], handed["to"], handed["step"]) == ("cpu", "cerebras", 3)
    assert {"weights", "optimizer moments", "position in the data"} <= set(handed["carried"])  # type: ignore[call-overload]
    assert any("ledger" in what for what in handed["not_carried"])  # type: ignore[attr-defined]
    assert min(said.metrics["train_loss"]) == 1  # told again
    assert len(cluster.phases()) == 2

    back = Watched()
    found = loop.train(to_cpu, back)
    assert farthest(expected.uri, found.uri) < TOLERANCE
    assert any(text.startswith("handed over from cerebras to cpu at step 9") for text, _ in back.events)


def schedule_kept(task: TrainTask, whole: TrainTask) -> TrainTask:
    """The task with the rates of the whole run, which the default schedule would fit to fewer steps."""
    assert whole.training.max_steps is not None
    parts = schedule_of(whole.training, max_steps=whole.training.max_steps).parts
    return task.model_copy(update={"training": task.training.model_copy(update={"schedule": tuple(parts)})})


def die() -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True
