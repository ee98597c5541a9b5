"""The training loop: the same task gives the same bits, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tiny_runs import (
    DROPOUT,
    GPTJ,
    LENGTH,
    NEOX,
    Recorder,
    contents,
    task,
    windows,
    write_dataset,
    write_model,
    write_split,
)

from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.specs import EvaluateTask, TargetSpec
from regraft.storage import publish
from regraft_worker.trainer import loop
from regraft_worker.trainer.data import SampleOrder
from regraft_worker.trainer.evaluate import evaluate


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with dropout, and a dataset."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base", {**GPTJ, **DROPOUT})
    write_dataset(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """The final checkpoint and the reports of a run that nothing happened to."""
    run, progress = tmp_path_factory.mktemp("undisturbed"), Recorder()
    loop.train(task(inputs, run), progress)
    return run / "step-00000012", progress


def test_the_loss_falls_and_every_number_is_reported(undisturbed: tuple[Path, Recorder]) -> None:
    _, progress = undisturbed
    losses = progress.losses()

    assert len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3
    assert [step for step, metrics in progress.steps if "val_loss" in metrics] == [4, 8, 12]
    assert set(progress.steps[3][1]) == {
        *("train_loss", "train_lr", "train_grad_norm", "epoch", "tokens"),
        *("val_loss", "val_perplexity", "val_accuracy"),
    }
    assert [name for name, _ in progress.artifacts] == [f"step-{step:08d}" for step in (3, 6, 9, 12)]
    assert progress.pruned == []


def test_what_retention_deletes_is_reported(inputs: Path, tmp_path: Path) -> None:
    progress = Recorder()
    loop.train(task(inputs, tmp_path, checkpoint={"every_steps": 3, "keep_last": 1}), progress)
    assert progress.pruned == ["step-00000003", "step-00000006", "step-00000009"]
    assert [folder.name for folder in sorted(tmp_path.glob("step-*"))] == ["step-00000012"]


def test_tokens_seen_are_those_counted_in_the_loss(undisturbed: tuple[Path, Recorder]) -> None:
    _, progress = undisturbed
    mask = windows(21, seed=1)[:, 1]

    totals = [tokens for _, tokens in progress.totals]

    assert mask.sum() < 21 * LENGTH
    assert totals[4] is not None
    assert mask.sum() * 20 / 21 - LENGTH < totals[4] <= mask.sum()  # step 5 has read 20 of the 21 windows
    assert {total for total, _ in progress.totals} == {12}


def test_a_held_out_loss_is_that_of_the_evaluator_without_dropout(
    inputs: Path, undisturbed: tuple[Path, Recorder], tmp_path: Path
) -> None:
    asked = EvaluateTask(
        dataset_uri=str(inputs / "dataset"),
        checkpoints={"trained": str(undisturbed[0])},
        batch_size=7,
        target=TargetSpec(kind="cpu"),
        output_uri=str(tmp_path),
    )
    found = evaluate(asked).scores["trained"]
    reported = undisturbed[1].steps[-1][1]

    assert reported["val_loss"] == pytest.approx(found.loss, abs=1e-6)
    assert reported["val_perplexity"] == pytest.approx(found.perplexity, rel=1e-6)
    assert reported["val_accuracy"] == found.accuracy


def test_the_same_task_gives_the_same_bits(inputs: Path, undisturbed: tuple[Path, Recorder], tmp_path: Path) -> None:
    again = Recorder()
    loop.train(task(inputs, tmp_path), again)

    assert contents(tmp_path / "step-00000012") == contents(undisturbed[0])
    assert again.steps == undisturbed[1].steps


@pytest.mark.parametrize("option", [{"seed": 2}, {"shuffle": False}, {"precision": "bf16"}])
def test_an_option_that_matters_changes_the_bits(
    option: dict[str, Any], inputs: Path, undisturbed: tuple[Path, Recorder], tmp_path: Path
) -> None:
    loop.train(task(inputs, tmp_path, **option))

    assert contents(tmp_path / "step-00000012") != contents(undisturbed[0])


@pytest.mark.parametrize("where", ["step:2", "writing:1", "pruning:"])  # many more places: test_kills.py
def test_a_killed_run_called_again_ends_with_the_same_bits_and_reports(
    where: str, inputs: Path, undisturbed: tuple[Path, Recorder], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = Path(__file__).with_name("tiny_runs.py")
    command = [sys.executable, str(script), str(inputs), str(tmp_path / "run"), str(log), where]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr

    resumed = Recorder()
    loop.train(task(inputs, tmp_path / "run"), resumed)

    before = [(step, metrics) for step, metrics in map(json.loads, log.read_text().splitlines())]
    assert len(before) < 12
    assert contents(tmp_path / "run" / "step-00000012") == contents(undisturbed[0])
    expected = dict(undisturbed[1].steps)
    assert all(expected[step] == metrics for step, metrics in before)
    # Whatever the kill has lost on its way, the resumed run says again: all of it, each step once.
    assert resumed.steps == undisturbed[1].steps
    assert {name for name, _ in resumed.artifacts} >= {"step-00000012"}
    assert not list((tmp_path / "run").glob(".tmp-*"))
    assert any("going on from" in text for _, text in resumed.events) == (where != "step:2")


def test_a_stop_is_saved_and_the_run_goes_on_from_there(
    inputs: Path, undisturbed: tuple[Path, Recorder], tmp_path: Path
) -> None:
    stopping = Recorder(stop_after=5)
    with pytest.raises(InterruptedStageError):
        loop.train(task(inputs, tmp_path), stopping)
    assert stopping.artifacts[-1][0] == "step-00000005"

    resumed = Recorder()
    loop.train(task(inputs, tmp_path), resumed)

    assert stopping.steps == undisturbed[1].steps[:5]
    assert resumed.steps == undisturbed[1].steps
    assert [name for name, _ in resumed.artifacts] == [f"step-{step:08d}" for step in (3, 5, 6, 9, 12)]
    assert contents(tmp_path / "step-00000012") == contents(undisturbed[0])


def test_a_stop_before_the_first_step_saves_nothing(inputs: Path, tmp_path: Path) -> None:
    class _AtOnce(Recorder):
        def should_stop(self) -> bool:
            return True

    with pytest.raises(InterruptedStageError):
        loop.train(task(inputs, tmp_path), _AtOnce())

    assert not list(tmp_path.iterdir())


def test_a_complete_run_is_not_run_again(inputs: Path, tmp_path: Path) -> None:
    first = loop.train(task(inputs, tmp_path))
    again = Recorder()

    assert loop.train(task(inputs, tmp_path), again) == first
    assert [step for step, _ in again.steps] == list(range(1, 13))  # said again, not done again
    assert [name for name, _ in again.artifacts] == [f"step-{step:08d}" for step in (3, 6, 9, 12)]
    assert first.step == 12


def test_a_run_with_a_fixed_schedule_can_be_made_longer(inputs: Path, tmp_path: Path) -> None:
    schedule = [{"constant": {"value": 1e-3}}]
    loop.train(task(inputs, tmp_path / "a", schedule=schedule, max_steps=4))
    loop.train(task(inputs, tmp_path / "a", schedule=schedule, max_steps=7))
    loop.train(task(inputs, tmp_path / "b", schedule=schedule, max_steps=7))

    assert contents(tmp_path / "a" / "step-00000007") == contents(tmp_path / "b" / "step-00000007")


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("training.seed", {"seed": 5}),
        ("training.batch_size", {"batch_size": 2}),
        ("training.schedule", {"max_steps": 20}),  # the default schedule is stretched by it
        ("training.schedule", {"learning_rate": 1e-3}),
        ("training.optimizer", {"optimizer": {"eps": 1e-8}}),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    field: str, option: dict[str, Any], inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedStageError):
        loop.train(task(inputs, tmp_path), Recorder(stop_after=1))

    with pytest.raises(InvalidInputError) as caught:
        loop.train(task(inputs, tmp_path, **option))

    assert caught.value.field == field


def test_a_run_past_its_end_is_refused(inputs: Path, tmp_path: Path) -> None:
    schedule = [{"constant": {"value": 1e-3}}]
    loop.train(task(inputs, tmp_path, schedule=schedule, max_steps=3))

    with pytest.raises(InvalidInputError, match="step 3 already"):
        loop.train(task(inputs, tmp_path, schedule=schedule, max_steps=2))


def test_without_max_steps_every_window_is_read_once(inputs: Path, tmp_path: Path) -> None:
    result = loop.train(task(inputs, tmp_path, max_steps=None, batch_size=8))

    assert result.step == 3  # 21 windows in batches of 8


def test_reports_come_every_so_many_steps_and_at_the_end(inputs: Path, tmp_path: Path) -> None:
    progress = Recorder()
    loop.train(task(inputs, tmp_path, log_every_steps=5, evaluate={}), progress)

    assert [step for step, _ in progress.steps] == [5, 10, 12]


def test_a_dataset_smaller_than_a_batch_is_repeated(tmp_path: Path) -> None:
    write_model(tmp_path / "base", NEOX)
    write_dataset(tmp_path / "dataset", train=3, held_out=0)
    progress = Recorder()

    loop.train(task(tmp_path, tmp_path / "run", batch_size=8, max_steps=2, evaluate={}), progress)

    assert progress.steps[-1][1]["epoch"] == pytest.approx(16 / 3)
    assert progress.totals[-1][1] == windows(3, seed=1)[[0, 1, 2], 1].sum() * 5 + _sixteenth_window(tmp_path)


def _sixteenth_window(folder: Path) -> int:
    (window,) = SampleOrder(3, seed=1, shuffle=True).at(np.array([15]))
    return int(windows(3, seed=1)[window, 1].sum())


def test_a_diverging_run_ends_with_the_last_good_checkpoint(inputs: Path, tmp_path: Path) -> None:
    schedule = [{"constant": {"value": 0.0, "steps": 4}}, {"constant": {"value": 1e30}}]

    with pytest.raises(InvalidDataError, match="at step 6; the last good checkpoint is step-00000003") as caught:
        loop.train(task(inputs, tmp_path, schedule=schedule, evaluate={}))

    assert caught.value.reason == "loss_not_finite"
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000003"]


def _broken(folder: Path, *, what: str) -> None:
    held_out = 0 if what == "no held-out windows" else 7
    config = write_model(folder / "base") / "config.json"
    if what == "activation":
        config.write_text(config.read_text().replace("gelu_new", "prelu"))
    write_dataset(
        folder / "dataset",
        train=0 if what in ("no train split", "empty train split") else 21,
        held_out=held_out,
        length=33 if what == "too long" else LENGTH,
    )
    if what == "empty train split":
        write_split(folder / "dataset" / "train", np.zeros((0, 3, LENGTH), dtype=np.int32))
    if what in ("label", "id"):
        with h5py.File(folder / "dataset" / "train" / "examples_0_0.h5", "a") as file:
            file["data"][5, 2 if what == "label" else 0, 3] = 61 if what == "label" else -1


@pytest.mark.parametrize(
    ("what", "error", "field"),
    [
        ("too long", InvalidInputError, "dataset.max_sequence_length"),
        ("activation", InvalidInputError, "activation"),
        ("no held-out windows", InvalidInputError, "training.evaluate.every_steps"),
        ("no train split", InvalidDataError, "dataset"),
        ("empty train split", InvalidDataError, "dataset"),
        ("label", InvalidDataError, "dataset"),
        ("id", InvalidDataError, "dataset"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(what: str, error: type[Exception], field: str, tmp_path: Path) -> None:
    _broken(tmp_path, what=what)

    with pytest.raises(error) as caught:
        loop.train(task(tmp_path, tmp_path / "run"))

    assert caught.value.field == field  # type: ignore[attr-defined]


@pytest.mark.parametrize(("highest", "fits"), [(60, True), (61, False)])
def test_token_ids_that_a_manifest_declares_are_checked_before_compute(
    highest: int, fits: bool, tmp_path: Path
) -> None:
    write_model(tmp_path / "base")
    with publish(tmp_path / "dataset", kind="dataset") as draft:
        for split in ("train", "eval"):
            write_split(draft.folder / split, windows(9))
        draft.summary = {"max_token_id": highest}
    progress = Recorder()

    if fits:
        assert loop.train(task(tmp_path, tmp_path / "run"), progress).step == 12
        return
    with pytest.raises(InvalidInputError) as caught:
        loop.train(task(tmp_path, tmp_path / "run"), progress)
    assert caught.value.field == "dataset.tokenizer"
    assert progress.steps == []


def test_a_dataset_that_lost_bytes_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    with publish(tmp_path / "dataset", kind="dataset") as draft:
        write_split(draft.folder / "train", windows(9))
    file = tmp_path / "dataset" / "train" / "examples_0_0.h5"
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(InvalidDataError, match="bytes"):
        loop.train(task(tmp_path, tmp_path / "run"))
