"""`regraft train` and `regraft evaluate`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer
from tiny_runs import NEOX, write_dataset, write_model
from typer.testing import CliRunner

from regraft.errors import InvalidInputError
from regraft.storage import local_path
from regraft_worker import cli_train
from regraft_worker.trainer import checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model and a dataset."""
    write_model(tmp_path / "base", NEOX)
    write_dataset(tmp_path / "dataset")
    return tmp_path


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command("train")(cli_train.train)
    app.command("evaluate")(cli_train.evaluate)
    return app


def _train_arguments(folder: Path, *more: str) -> list[str]:
    where = ["--dataset", str(folder / "dataset"), "--checkpoint", str(folder / "base")]
    return ["train", *where, "--output-dir", str(folder / "run"), *more]


def test_train_and_evaluate_print_results_as_json_and_progress_aside(folder: Path) -> None:
    (folder / "training.yaml").write_text("training: {batch_size: 4, max_steps: 9, log_every_steps: 1}\n")
    trained = CliRunner().invoke(
        _app(),
        _train_arguments(folder, "--params", str(folder / "training.yaml"), "--max-steps", "3", "--seed", "2"),
        catch_exceptions=False,
    )

    result = json.loads(trained.stdout)
    assert result["step"] == 3
    assert [line.split()[1] for line in trained.stderr.splitlines() if line.startswith("step")] == ["1/3", "2/3", "3/3"]
    assert "s left" in trained.stderr

    checkpoints = [f"base={folder / 'base'}", f"trained={local_path(result['uri'])}"]
    arguments = [part for item in checkpoints for part in ("--checkpoint", item)]
    scored = CliRunner().invoke(
        _app(),
        ["evaluate", "--dataset", str(folder / "dataset"), "--output-dir", str(folder / "out"), *arguments],
        catch_exceptions=False,
    )

    assert set(json.loads(scored.stdout)["scores"]) == {"base", "trained"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes take two cores")
def test_two_devices_are_two_processes(folder: Path) -> None:
    options = ("--max-steps", "2", "--batch-size", "4", "--devices", "2", "--strategy", "ddp")
    trained = CliRunner().invoke(_app(), _train_arguments(folder, *options), catch_exceptions=False)

    result = json.loads(trained.stdout)
    assert result["step"] == 2
    target = checkpoint.read_state(local_path(result["uri"])).target
    assert (target.devices, target.strategy) == (2, "ddp")


@pytest.mark.parametrize(
    ("options", "yaml", "field"),
    [
        (["--precision", "fp8"], "training: {}", "training.precision"),
        (["--batch-size", "0"], "training: {}", "training.batch_size"),
        (["--learning-rate", "1"], "training: {schedule: [{constant: {value: 0.1}}]}", "learning_rate"),
        (["--target", "No/Such"], "training: {}", "target"),
        (["--target", "abacus"], "training: {}", "target.kind"),
        (["--devices", "0"], "training: {}", "devices"),
        (["--devices", "4096"], "training: {}", "target.devices"),
        (["--strategy", "pipeline"], "training: {}", "strategy"),
        (["--strategy", "single", "--devices", "2"], "training: {}", "strategy"),
        ([], "other: {}", "params"),
        ([], "{", "params"),
        ([], "training: {no_such_option: 1}", "training.no_such_option"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(options: list[str], yaml: str, field: str, folder: Path) -> None:
    (folder / "training.yaml").write_text(yaml)
    found = CliRunner().invoke(_app(), _train_arguments(folder, "--params", str(folder / "training.yaml"), *options))

    assert isinstance(found.exception, InvalidInputError)
    assert found.exception.field == field


def test_a_checkpoint_without_a_name_is_refused(folder: Path) -> None:
    where = ["--dataset", str(folder / "dataset"), "--output-dir", str(folder / "out")]
    found = CliRunner().invoke(_app(), ["evaluate", *where, "--checkpoint", str(folder / "base")])

    assert isinstance(found.exception, InvalidInputError)
    assert found.exception.field == "checkpoint"
