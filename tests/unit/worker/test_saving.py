"""Checkpoints written in the background: failures, retention, time, and what a run keeps through all of it."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import NEOX, Recorder, contents, task, write_dataset, write_model

from regraft.errors import InvalidDataError, StorageFailedError
from regraft.storage import is_published, local_path
from regraft_worker.trainer import checkpoint, loop, snapshot, writing
from regraft_worker.trainer.folders import OPTIMIZER, STATE, step_folder
from regraft_worker.trainer.snapshot import HostBuffers


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and a dataset."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base", NEOX)
    write_dataset(folder / "dataset")
    return folder


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setattr(writing, "WAITS", (0.0, 0.0))


def _failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Path, int], bool], error: int) -> None:
    """Writing the moments of a checkpoint fails with this errno when `fails(file, nth call)`."""
    write, calls = checkpoint.write_safetensors, []

    def maybe(path: Path, *args: Any, **options: Any) -> Any:
        calls.append(path)
        if fails(path, len(calls)):
            raise OSError(error, "planted", str(path))
        return write(path, *args, **options)

    monkeypatch.setattr(checkpoint, "write_safetensors", maybe)


def _kept(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in run.glob("step-*"))


@pytest.mark.parametrize("background", [True, False])
def test_a_write_that_fails_once_is_made_again(
    background: bool, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, lambda path, nth: nth == 2, errno.EIO)
    progress = Recorder()

    loop.train(task(inputs, tmp_path, checkpoint={"every_steps": 3, "background": background}), progress)

    assert _kept(tmp_path) == [6, 9, 12]
    assert [level for level, text in progress.events if "step-00000006" in text] == ["warn"]
    assert all(is_published(step_folder(tmp_path, step)) for step in (6, 9, 12))


def test_a_checkpoint_that_cannot_be_written_leaves_those_before_it(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, lambda path, nth: "step-00000009" in str(path), errno.ENOSPC)
    progress = Recorder()

    result = loop.train(task(inputs, tmp_path, checkpoint={"every_steps": 3, "keep_last": 1}), progress)

    assert result.step == 12
    assert _kept(tmp_path) == [12]
    assert ("error", "checkpoint step-00000009 could not be written; step-00000006 is kept") in progress.events
    # Not before the next one was there is the one from before deleted.
    assert progress.pruned == ["step-00000003", "step-00000006"]
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(("error", "kind"), [(errno.ENOSPC, OSError), (errno.EIO, StorageFailedError)])
def test_a_last_checkpoint_that_cannot_be_written_ends_the_run_with_the_cause(
    error: int, kind: type[Exception], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = task(inputs, tmp_path, checkpoint={"every_steps": 3, "keep_last": 1})
    with monkeypatch.context() as patched:
        _failing(patched, lambda path, nth: "step-00000012" in str(path), error)
        with pytest.raises(kind, match="planted"):
            loop.train(asked)
    assert _kept(tmp_path) == [9]

    loop.train(asked)  # the cause is gone

    assert _kept(tmp_path) == [12]


def test_what_reads_back_as_something_else_is_no_checkpoint(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write_safetensors

    def lying(path: Path, *args: Any, **options: Any) -> Any:
        digests = write(path, *args, **options)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return digests

    monkeypatch.setattr(checkpoint, "write_safetensors", lying)

    with pytest.raises(InvalidDataError, match="reads back as something else"):
        loop.train(task(inputs, tmp_path, max_steps=3))

    assert _kept(tmp_path) == []


def test_at_most_one_write_is_under_way_and_training_goes_on_meanwhile(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, reached, under_way, most = checkpoint.write, threading.Event(), [], []

    class _Steps(Recorder):
        def step(self, step: int, *args: Any, **options: Any) -> None:
            super().step(step, *args, **options)
            if step == 5:
                reached.set()

    def slow(run: Path, state: Any, *args: Any, **options: Any) -> Path:
        under_way.append(state.step)
        most.append(len(under_way))
        if state.step == 3:
            assert reached.wait(30), "training goes on to step 5 while the checkpoint of step 3 is written"
        under_way.remove(state.step)
        return write(run, state, *args, **options)

    monkeypatch.setattr(checkpoint, "write", slow)

    loop.train(task(inputs, tmp_path), _Steps())

    assert _kept(tmp_path) == [3, 6, 9, 12]
    assert max(most) == 1


def test_a_snapshot_written_late_holds_the_values_of_its_step(inputs: Path, tmp_path: Path) -> None:
    loop.train(task(inputs, tmp_path / "background"))
    loop.train(task(inputs, tmp_path / "waiting", checkpoint={"every_steps": 3, "background": False, "keep_last": 9}))

    for step in (3, 6, 9, 12):
        one, other = (step_folder(tmp_path / name, step) for name in ("background", "waiting"))
        assert contents(one) == contents(other)


def test_host_buffers_are_copies_that_are_used_again() -> None:
    tensor, buffers = torch.zeros(3), HostBuffers()
    first = buffers.begin({"a": tensor})["a"]
    buffers.wait()
    tensor += 1

    assert first.tolist() == [0, 0, 0]
    assert buffers.begin({"a": tensor})["a"].data_ptr() == first.data_ptr()
    buffers.wait()
    assert first.tolist() == [1, 1, 1]


@pytest.mark.parametrize("planted", [False, True])
def test_a_copy_that_takes_long_still_holds_the_values_of_its_step(
    planted: bool, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = threading.Event()

    class _Steps(Recorder):
        def step(self, step: int, *args: Any, **options: Any) -> None:
            super().step(step, *args, **options)
            if step == 4:
                changed.set()

    def slowly(pairs: Any, computed: Any) -> None:
        changed.wait(30 if planted else 0.2)  # in vain, where the weights are changed only after this
        copied(pairs, computed)

    loop.train(task(inputs, tmp_path / "undisturbed"))
    copied = snapshot._copy
    monkeypatch.setattr(snapshot, "_copy", slowly)
    if planted:  # the weights are changed without waiting for the copy
        wait = HostBuffers.wait
        training = threading.current_thread()
        impatient = lambda self: 0.0 if threading.current_thread() is training else wait(self)  # noqa: E731
        monkeypatch.setattr(HostBuffers, "wait", impatient)
    loop.train(task(inputs, tmp_path / "slow"), _Steps())

    same = [contents(step_folder(tmp_path / name, 3)) for name in ("undisturbed", "slow")]
    assert (same[0] == same[1]) is not planted


def test_those_of_a_multiple_stay_for_ever_and_old_ones_lose_their_moments(inputs: Path, tmp_path: Path) -> None:
    keep = {"every_steps": 2, "keep_last": 3, "keep_every": 4, "keep_optimizer_last": 1}
    loop.train(task(inputs, tmp_path, checkpoint=keep))

    assert _kept(tmp_path) == [4, 8, 10, 12]
    assert [step for step in (4, 8, 10, 12) if (step_folder(tmp_path, step) / OPTIMIZER).exists()] == [12]
    assert all(is_published(step_folder(tmp_path, step)) for step in (4, 8, 10, 12))
    (step_folder(tmp_path, 12) / OPTIMIZER).write_bytes(b"")
    progress = Recorder()
    assert checkpoint.latest(tmp_path, progress=progress) is None
    assert sum("its optimiser state is not kept" in text for _, text in progress.events) == 3


@pytest.mark.parametrize(("metric", "mode", "pick"), [("val_accuracy", None, max), ("val_loss", "max", max)])
def test_the_best_one_is_best_by_the_metric_asked_for(
    metric: str, mode: str | None, pick: Any, inputs: Path, tmp_path: Path
) -> None:
    schedule = [{"constant": {"value": 3e-3, "steps": 4}}, {"constant": {"value": 5.0}}]
    keep = {"every_steps": 2, "keep_last": 1, "keep_best": metric, "keep_best_mode": mode}
    progress = Recorder()

    result = loop.train(task(inputs, tmp_path, schedule=schedule, checkpoint=keep, evaluate={}), progress)

    found = {step: metrics[metric] for step, metrics in progress.steps if metric in metrics}
    best = pick(found, key=lambda step: found[step])
    assert result.best_uri is not None
    assert local_path(result.best_uri) == step_folder(tmp_path, best)
    assert _kept(tmp_path) == sorted({best, 12})


def test_a_best_one_that_could_not_be_written_is_not_the_best(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, lambda path, nth: "step-00000009" in str(path), errno.EIO)
    keep = {"every_steps": 3, "keep_last": 1, "keep_best": "val_loss"}
    schedule = [{"constant": {"value": 3e-3, "steps": 9}}, {"constant": {"value": 5.0}}]

    result = loop.train(task(inputs, tmp_path, checkpoint=keep, schedule=schedule, evaluate={}))

    assert result.best_uri is not None
    assert local_path(result.best_uri) == step_folder(tmp_path, 6)
    assert _kept(tmp_path) == [6, 12]


def test_time_saves_as_well_as_steps(inputs: Path, tmp_path: Path) -> None:
    keep = {"every_steps": 5, "every_minutes": 1e-9, "keep_last": 99, "keep_best": "val_loss"}
    progress = Recorder()
    loop.train(task(inputs, tmp_path, checkpoint=keep, evaluate={}, max_steps=6), progress)

    assert _kept(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert [step for step, metrics in progress.steps if "val_loss" in metrics] == [5, 6]  # only those of the schedule


def test_what_a_killed_writer_left_is_removed(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / f".tmp-step-00000002-{os.getpid()}").mkdir(parents=True)

    loop.train(task(inputs, tmp_path, max_steps=1))

    assert not list(tmp_path.glob(".tmp-*"))


def test_the_stall_is_reported(inputs: Path, tmp_path: Path) -> None:
    class _All(Recorder):
        stalls: list[float] = []  # noqa: RUF012

        def step(self, step: int, metrics: Any, **options: Any) -> None:
            self.stalls += [metrics["checkpoint_stall_seconds"]] if "checkpoint_stall_seconds" in metrics else []

    progress = _All()
    loop.train(task(inputs, tmp_path), progress)

    assert len(progress.stalls) == 4
    assert all(0 < stall < 60 for stall in progress.stalls)


def test_a_checkpoint_of_version_2_is_continued(inputs: Path, tmp_path: Path) -> None:
    schedule = [{"constant": {"value": 1e-3}}]
    loop.train(task(inputs, tmp_path / "a", schedule=schedule))
    loop.train(task(inputs, tmp_path / "b", schedule=schedule, max_steps=6))
    folder = step_folder(tmp_path / "b", 6)
    state = json.loads((folder / STATE).read_text())
    new = ("scores", "baseline", "best", "watched", "spikes", "without_effect", "stopped_early", "scalars", "ledger")
    state = {name: value for name, value in state.items() if name not in new}
    (folder / STATE).write_text(json.dumps({**state, "format_version": 2, "val_loss": 4.0, "best_step": 3}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = [entry for entry in manifest["files"] if entry["path"] != STATE]
    (folder / "manifest.json").write_text(json.dumps(manifest))

    loop.train(task(inputs, tmp_path / "b", schedule=schedule))

    assert contents(step_folder(tmp_path / "a", 12)) == contents(step_folder(tmp_path / "b", 12))
