"""A checkpoint goes to the client and comes back as the checkpoint it was: weights, moments, step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from tiny_runs import GPTJ, NEOX, Recorder, write_dataset, write_model

from regraft.errors import InvalidDataError
from regraft.specs import TrainTask
from regraft_worker.cerebras.carrying import write_step_mdl
from regraft_worker.cerebras.pickup import Settled, moved_to, register
from regraft_worker.cerebras.train import _held
from regraft_worker.trainer.checkpoint import latest, read_state
from regraft_worker.trainer.identity import fresh_state
from regraft_worker.trainer.inputs import Inputs, open_inputs
from regraft_worker.trainer.loop import train

FILES = ("model.safetensors", "training_state/optimizer.safetensors")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@contextmanager
def trained(folder: Path, config: dict[str, Any]) -> Iterator[tuple[TrainTask, Inputs]]:
    """A run of four steps on this machine."""
    write_model(folder / "base", {**config, "dtype": "float32"})
    write_dataset(folder / "dataset")
    options = {"max_steps": 4, "checkpoint": {"every_steps": 4}, "evaluate": {}}
    task = tiny_runs.task(folder, folder / "run", **options)
    train(task, Recorder())
    with open_inputs(task) as inputs:
        yield task, inputs


def took(task: TrainTask, inputs: Inputs, path: Path, run: Path, *, step: int = 4) -> Path:
    """The file taken in as that of a step."""
    state = moved_to(fresh_state(task, inputs), step, loss=1.0, tokens=64)
    folder, _ = register(path, run, state, inputs, reports=(), check=lambda: None)
    return folder


@pytest.mark.parametrize(
    ("release", "config"),
    [("1.9", GPTJ), ("2.2", NEOX), ("2.4", GPTJ), ("2.10", NEOX)],
    ids=lambda value: str(value)[:4],
)
def test_there_and_back_nothing_changes(release: str, config: dict[str, Any], tmp_path: Path) -> None:
    with trained(tmp_path, config) as (task, inputs):
        before = tmp_path / "run" / "step-00000004"
        path = tmp_path / "checkpoint_4.mdl"
        write_step_mdl(path, before, training=task.training, release=release)
        assert Settled(settle_seconds=60).whole(tmp_path, after=0, written=True) == [(4, path)]
        after = took(task, inputs, path, tmp_path / "other")
    for name in FILES:
        there, back = load_file(before / name), load_file(after / name)
        assert there.keys() == back.keys()
        assert all(torch.equal(there[key], back[key]) for key in there), name
    state = read_state(after)
    assert (state.step, state.updates(), state.dataloader.samples_streamed) == (4, 4, 16)
    assert latest(tmp_path / "other") == after


def test_a_checkpoint_of_another_step_or_model_is_refused(tmp_path: Path) -> None:
    with trained(tmp_path, GPTJ) as (task, inputs):
        path = tmp_path / "checkpoint_4.mdl"
        write_step_mdl(path, tmp_path / "run" / "step-00000004", training=task.training, release="2.10")
        with pytest.raises(InvalidDataError, match="another step"):
            took(task, inputs, path, tmp_path / "other", step=5)
    (tmp_path / "smaller").mkdir()
    with trained(tmp_path / "smaller", {**GPTJ, "n_layer": 1}) as (task, inputs), pytest.raises(InvalidDataError):
        took(task, inputs, path, tmp_path / "other")
    assert latest(tmp_path / "other") is None


@pytest.mark.parametrize("release", ["2.2", "2.10"])
def test_a_file_that_is_cut_short_is_not_whole(release: str, tmp_path: Path) -> None:
    with trained(tmp_path, GPTJ) as (task, _):
        path = tmp_path / "checkpoint_4.mdl"
        write_step_mdl(path, tmp_path / "run" / "step-00000004", training=task.training, release=release)
    whole = path.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert Settled(settle_seconds=0).whole(tmp_path, after=0, written=True) == [], length
    path.write_bytes(whole)
    assert Settled(settle_seconds=60).whole(tmp_path, after=0) == ([] if release == "2.2" else [(4, path)])
    assert Settled(settle_seconds=60).whole(tmp_path, after=4, written=True) == []


def test_a_checkpoint_that_the_client_has_deleted_meanwhile_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_3.mdl").write_bytes(b"weights")

    assert _held(tmp_path / "checkpoint_0.mdl", tmp_path / "kept") is None
    held = _held(tmp_path / "checkpoint_3.mdl", tmp_path / "kept")
    (tmp_path / "checkpoint_3.mdl").unlink()
    assert held is not None
    assert held.read_bytes() == b"weights"
