"""TensorBoard's files of `regraft run`: the tags, the folders and the rates of the releases, read from the files."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from event_points import points
from regraft.errors import InvalidInputError
from regraft_worker.trainer import guard
from regraft_worker.trainer import run as trainer_run
from regraft_worker.trainer.event_file import EventFile
from zoo_runs import FLAT, TRAINER, Told, changed, here, log, run

RATES = {"local_samples_per_sec", "avg_samples_per_sec", "avg_steps_per_sec"}
OF_STEPS = {"loss", "lr/0", "lr/1", *RATES}
OF_SCORES = {"eval/lm_perplexity", "eval/accuracy"}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here(tmp_path)


def tags_of(folder: Path) -> set[str]:
    return {tag for tag, _ in points(folder)}


def curve(folder: Path, tag: str) -> dict[int, float]:
    return {step: value for (name, step), value in points(folder).items() if name == tag}


def check_steps(folder: Path, told: Told, *, batch_size: int) -> None:
    """Every step that was told is a point of each tag, with the numbers that were told."""
    for tag, metric in {"loss": "train_loss", "lr/0": "train_lr", "lr/1": "train_lr"}.items():
        expected = {step: metrics[metric] for step, metrics in told.steps.items()}
        assert curve(folder, tag) == pytest.approx(expected)
    overall = curve(folder, "avg_samples_per_sec")
    assert overall.keys() == curve(folder, "local_samples_per_sec").keys() == told.steps.keys()
    assert {step: rate / batch_size for step, rate in overall.items()} == pytest.approx(
        curve(folder, "avg_steps_per_sec")
    )


def test_a_flat_file_has_training_in_one_folder_and_scores_in_another(tmp_path: Path) -> None:
    params = changed(tmp_path, runconfig={"checkpoint_steps": 2, "eval_frequency": 2})
    out = tmp_path / "out"

    told = run(out, params, mode="train_and_eval", max_steps=3)

    assert tags_of(out / "train") >= OF_STEPS
    assert not tags_of(out / "train") & {*OF_SCORES, "eval/loss", "val/loss"}
    check_steps(out / "train", told, batch_size=4)
    assert tags_of(out / "eval") >= {*OF_SCORES, "loss", *RATES}
    assert not tags_of(out / "eval") & {"lr/0", "train/loss"}
    for tag, metric in {"loss": "val_loss", "eval/lm_perplexity": "val_perplexity"}.items():
        assert curve(out / "eval", tag) == pytest.approx({step: told.steps[step][metric] for step in (2, 3)})
    for mode, steps in {"eval_all": (2, 3), "eval": (3,)}.items():
        for path in (out / "eval").glob("events.*"):
            path.unlink()  # what is read below is of this run alone
        run(out, params, mode=mode)
        assert tags_of(out / "eval") >= {*OF_SCORES, "loss", *RATES}
        again = curve(out / "eval", "loss")
        assert again == pytest.approx({step: told.steps[step]["val_loss"] for step in steps}, abs=1e-6)


def test_the_trainer_form_has_one_folder_that_is_named_as_that_of_the_log(tmp_path: Path) -> None:
    content = yaml.safe_load(TRAINER.read_text())
    del content["trainer"]["fit"]["ckpt_path"]
    content["trainer"]["fit"]["val_dataloader"] = content["trainer"]["fit"]["train_dataloader"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "out"

    told = run(out, tmp_path / "params.yaml", mode="train_and_eval", max_steps=2)

    (logs,) = (out / "cerebras_logs").iterdir()
    folder = out / logs.name
    assert tags_of(folder) >= {*OF_STEPS, *OF_SCORES, "eval/loss"}
    check_steps(folder, told, batch_size=4)
    shape = r"INFO:   \| Train Device=cpu, Step=(\d+), Loss=.*, Rate=([\d.e+]+) samples/sec, GlobalRate=([\d.e+]+) .*"
    said = {int(match[1]): match for line in log(out) if (match := re.fullmatch(shape, line))}
    assert said.keys() == {1, 2}
    for step, match in said.items():
        found = points(folder)
        assert float(match[2]) == pytest.approx(found["local_samples_per_sec", step], rel=1e-2)
        assert float(match[3]) == pytest.approx(found["avg_samples_per_sec", step], rel=1e-2)


def test_a_summary_dir_has_them_all(tmp_path: Path) -> None:
    params = changed(tmp_path, runconfig={"summary_dir": "board", "load_checkpoint_states": "all"})

    told = run(tmp_path / "out", params, mode="train_and_eval", max_steps=1)

    assert tags_of(tmp_path / "board") >= {*OF_STEPS, *OF_SCORES}
    check_steps(tmp_path / "board", told, batch_size=4)
    assert not [*(tmp_path / "out").rglob("events.*")]
    before = points(tmp_path / "board")
    run(tmp_path / "out", params, mode="eval")
    assert points(tmp_path / "board") == before
    assert tags_of(tmp_path / "board" / "eval") >= {*OF_SCORES, *RATES}
    assert curve(tmp_path / "board" / "eval", "loss") == pytest.approx({1: told.steps[1]["val_loss"]}, abs=1e-6)


def test_a_summary_dir_that_cannot_be_made_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "board").write_text("a file")
    params = changed(tmp_path, runconfig={"summary_dir": "board/here"})

    with pytest.raises(InvalidInputError) as caught:
        run(tmp_path / "out", params, max_steps=1)

    assert (caught.value.field, caught.value.value) == ("summary_dir", "board/here")
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_full_disk_of_event_files_is_one_warning_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: EventFile, message: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventFile, "_append", full)
    monkeypatch.setattr(guard, "REST_SECONDS", 0.0)

    told = run(tmp_path / "out", FLAT, max_steps=3)

    assert told.steps.keys() == {1, 2, 3}
    assert len([line for line in log(tmp_path / "out") if "TensorBoard" in line and "No space left" in line]) == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a step moves by 10 s, loading by 1000 s and the scoring of a set by 2 s."""
    now = 0.0

    def taking(seconds: float, call: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            nonlocal now
            now += seconds
            return call(*args, **options)

        return timed

    stand_in = SimpleNamespace(monotonic=lambda: now)
    for module in ("regraft_worker.trainer.run", "regraft_worker.trainer.measures"):
        monkeypatch.setattr(f"{module}.time", stand_in)
    monkeypatch.setattr(trainer_run, "score", taking(2, trainer_run.score))
    monkeypatch.setattr(trainer_run.TrainStep, "__call__", taking(10, trainer_run.TrainStep.__call__))
    monkeypatch.setattr(trainer_run, "TrainStep", taking(1000, trainer_run.TrainStep))


def rates_in(lines: list[str], kind: str) -> list[str]:
    return [line.partition("Rate=")[2] for line in lines if kind in line]


@pytest.mark.usefixtures("clock")
def test_the_rate_of_an_evaluation_counts_no_step_and_that_of_the_steps_only_steps(tmp_path: Path) -> None:
    params = changed(tmp_path, runconfig={"load_checkpoint_states": "all", "eval_frequency": 1, "eval_steps": 3})

    told = run(tmp_path / "out", params, mode="train_and_eval", max_steps=2)

    assert [metrics["evaluation_seconds"] for metrics in told.steps.values()] == [2.0, 2.0]
    size, lines = yaml.safe_load(FLAT.read_text())["eval_input"]["batch_size"], log(tmp_path / "out")
    both = f"{3 * size / 2:.2f} samples/sec, GlobalRate={3 * size / 2:.2f} samples/sec"
    assert rates_in(lines, "| Eval") == [both, both]
    assert rates_in(lines, "| Train") == ["0.40 samples/sec, GlobalRate=0.40 samples/sec"] * 2
    assert curve(tmp_path / "out" / "eval", "local_samples_per_sec") == {1: 3 * size / 2, 2: 3 * size / 2}


@pytest.mark.usefixtures("clock")
def test_loading_again_between_the_parts_of_a_run_is_in_no_rate(tmp_path: Path) -> None:
    """Saved from where it goes on, at 3 and 5: the trainer is called for each."""
    params = changed(tmp_path, runconfig={"load_checkpoint_states": "all", "checkpoint_steps": 2})
    run(tmp_path / "out", params, max_steps=1)

    told = run(tmp_path / "out", params, max_steps=5)

    assert told.steps.keys() == {2, 3, 4, 5}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mdl")) == [f"checkpoint_{n}.mdl" for n in (1, 3, 5)]
    rates = rates_in(log(tmp_path / "out"), "| Train")
    assert rates == ["0.40 samples/sec, GlobalRate=0.40 samples/sec"] * 4
    overall = curve(tmp_path / "out" / "train", "avg_samples_per_sec")
    assert {step: overall[step] for step in told.steps} == pytest.approx(dict.fromkeys(told.steps, 0.4))
