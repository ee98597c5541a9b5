"""What `regraft run` says while it trains: scores of every set, when they come, and who else is told."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
import yaml

from zoo_runs import ASSETS, FLAT, TRAINER, changed, here, log, run


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here(tmp_path)


def _first_windows(folder: Path, count: int) -> None:
    folder.mkdir()
    with h5py.File(ASSETS / "train" / "data-0.h5") as read, h5py.File(folder / "part.h5", "w") as written:
        written["data"] = read["data"][:count]


def test_every_validation_set_is_scored_while_training_with_its_batches(tmp_path: Path) -> None:
    for name, windows in {"a": 22, "b": 41}.items():
        _first_windows(tmp_path / name, windows)
    params = tmp_path / "params.yaml"
    found = yaml.safe_load(TRAINER.read_text())
    del found["trainer"]["fit"]["ckpt_path"]
    found["trainer"]["init"]["checkpoint"]["steps"] = 4
    one = {**found["trainer"]["fit"]["train_dataloader"], "data_dir": "a", "batch_size": 2}
    found["trainer"]["fit"]["val_dataloader"] = [one, {**one, "data_dir": "b", "batch_size": 8}]
    params.write_text(yaml.safe_dump(found))
    out = tmp_path / "out"

    told = run(out, params, mode="train_and_eval", max_steps=4)

    lines = [line for line in log(out) if "Eval" in line]
    shape = r"INFO:   \| Eval Device=cpu, GlobalStep=4, Batch=(\d+), Loss=(\d+\.\d{5}), Rate=([\d.e+]+) samples/sec"
    said = [match for line in lines if (match := re.fullmatch(shape, line))]
    assert [int(match[1]) for match in said] == [11, 5]
    assert all(float(match[3]) > 0 for match in said)
    losses = [told.steps[4][f"{name}_loss"] for name in ("val", "eval_1")]
    assert losses[0] != losses[1]
    assert [float(match[2]) for match in said] == pytest.approx(losses, abs=1e-5)
    assert [line for line in lines if "Avg" in line] == [f"INFO:   Avg Eval Loss: {loss}" for loss in losses]
    found["trainer"]["validate"] = {"val_dataloader": found["trainer"]["fit"]["val_dataloader"]}
    params.write_text(yaml.safe_dump(found))
    run(out, params, mode="eval")
    again = [float(line.rpartition(" ")[2]) for line in log(out) if "Avg Eval Loss" in line]
    assert again == pytest.approx(losses, abs=1e-6)


def test_scores_come_where_they_were_asked_for_after_any_start(tmp_path: Path) -> None:
    params = changed(tmp_path, runconfig={"checkpoint_steps": 4, "eval_frequency": 8})
    out = tmp_path / "out"
    run(out, params, max_steps=2)

    told = run(out, params, mode="train_and_eval", max_steps=12)

    assert [step for step, metrics in told.steps.items() if "val_loss" in metrics] == [8, 12]
    shape = r"INFO:   \| Eval Device=cpu, Step=(\d+), .*"
    assert [int(match[1]) for line in log(out) if (match := re.fullmatch(shape, line))] == [8, 12]
    assert sorted(path.name for path in out.glob("*.mdl")) == [f"checkpoint_{step}.mdl" for step in (10, 12, 2, 6)]


class StandIn(SimpleNamespace):
    """Takes the place of `wandb` and `mlflow`, and notes which runs it was asked to go on with."""

    def __init__(self) -> None:
        super().__init__(log_params=lambda params: None, log_metrics=lambda metrics, step: None, end_run=lambda: None)
        self.ids: list[str | None] = []
        self.folders: list[str] = []

    def init(self, *, id: str, dir: str, **_: object) -> SimpleNamespace:
        self.ids.append(id)
        self.folders.append(dir)
        return SimpleNamespace(log=lambda metrics, step: None, finish=lambda: None)

    def start_run(self, *, run_id: str | None = None, **_: object) -> SimpleNamespace:
        self.ids.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id="made"))


@pytest.mark.parametrize(("package", "variable"), [("wandb", "WANDB_PROJECT"), ("mlflow", "MLFLOW_TRACKING_URI")])
def test_a_tracker_knows_the_run_by_its_model_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, variable: str
) -> None:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, package, stand_in)  # type: ignore[arg-type]
    monkeypatch.setenv(variable, "x")
    for steps in (1, 2):
        run(Path("out"), FLAT, max_steps=steps)
    run(Path("other"), FLAT, max_steps=1)
    first, again, other = stand_in.ids
    if package == "mlflow":
        assert [first, again, other] == [None, "made", None]
        assert (tmp_path / "out" / "mlflow_run_id").read_text() == "made"
    else:
        assert first == again != other
        assert stand_in.folders == [str(tmp_path / name) for name in ("out", "out", "other")]
