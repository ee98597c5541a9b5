"""Every recipe runs: shrunk by named overrides, as a training and as a params file of a Cerebras release."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import GPTJ, NEOX, Recorder, write_dataset, write_model

from regraft import recipes
from regraft.cli_recipes import list_
from regraft.specs import JobSpec, TargetSpec, TrainTask
from regraft_worker.cli_params import params
from regraft_worker.trainer.loop import train
from zoo_runs import ASSETS, here
from zoo_runs import run as run_params

SHRUNK: dict[str, Any] = {
    "batch_size": 4,
    "max_steps": 6,
    "precision": "fp32",
    "log_every_steps": 2,
    "evaluate": {"every_steps": 3},
    "checkpoint": {"every_steps": 3},
}
"""All that is changed to make a recipe small; optimiser, schedule and seed stay the recipe's."""


def job(name: str) -> dict[str, Any]:
    inputs = {"dataset": {"uri": "/corpus"}, "base_checkpoint": {"uri": "/base"}, "target": {"kind": "cpu"}}
    return {**inputs, "recipe": name, "training": SHRUNK}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_trains(tmp_path: Path, name: str) -> None:
    write_model(tmp_path / "base", NEOX if name.startswith("neox") else GPTJ)
    write_dataset(tmp_path / "dataset")
    task = TrainTask(
        dataset_uri=str(tmp_path / "dataset"),
        checkpoint_uri=str(tmp_path / "base"),
        training=JobSpec.model_validate(job(name)).training,
        target=TargetSpec(kind="cpu"),
        output_uri=str(tmp_path / "run"),
    )
    progress = Recorder()
    result = train(task, progress)
    assert result.step == 6
    assert math.isfinite(result.train_loss)
    assert [step for step, metrics in progress.steps if "val_loss" in metrics and step] == [3, 6]


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("release", ["1.8", "2.9"])
def test_its_params_file_is_run(tmp_path: Path, name: str, release: str) -> None:
    config = ASSETS / "cs_ckpt" / ("neox_par_cs-2.9.yaml" if name.startswith("neox") else "gptj_v512_cs-2.9.yaml")
    (tmp_path / "job.yaml").write_text(
        yaml.safe_dump({**job(name), "dataset": {"uri": "x", "max_sequence_length": 48}})
    )
    here(tmp_path)
    (tmp_path / "data").rename(tmp_path / "eval")
    params(
        config=config,
        release=release,
        output=tmp_path / "params.yaml",
        job=tmp_path / "job.yaml",
        data_dir=str(tmp_path),
    )
    told = run_params(tmp_path / "out", tmp_path / "params.yaml", mode="train_and_eval", num_steps=3)
    assert "val_loss" in told.steps[3]
    assert [*(tmp_path / "out").glob("checkpoint_*.mdl")] == [tmp_path / "out" / "checkpoint_3.mdl"]


def test_the_list_is_not_empty(capsys: pytest.CaptureFixture[str]) -> None:
    list_()
    assert len(capsys.readouterr().out.splitlines()) == len(recipes.names()) >= 4
