"""Our trainer and the Cerebras Model Zoo, from the same checkpoint on the same windows: the same losses, step by step.

The recorded run is in `assets/modelzoo/train/train_20steps.json`, which also says how it was made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from regraft.ports import NullProgress
from regraft.specs import OptimizerSpec, TargetSpec, TrainingSpec, TrainTask
from regraft_worker.trainer import loop

ASSETS = Path(__file__).parents[1] / "assets" / "modelzoo"
RECORDED = json.loads((ASSETS / "train" / "train_20steps.json").read_text())
TOLERANCE = 2e-5

RECIPE = TrainingSpec.model_validate(
    {
        "batch_size": 4,
        "max_steps": 20,
        "shuffle": False,
        "optimizer": {"eps": 1e-6, "weight_decay": 0.1, "max_gradient_norm": 1.0},
        "schedule": [
            {"linear": {"from": 0.0, "to": 1e-3, "steps": 5}},
            {"cosine": {"from": 1e-3, "to": 2e-4, "steps": 15}},
            {"constant": {"value": 2e-4}},
        ],
        "log_every_steps": 1,
    }
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a model this small gains nothing from threads that wait


class _Metrics(NullProgress):
    def __init__(self) -> None:
        self.by_name: dict[str, list[float]] = {}

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        for name, value in metrics.items():
            self.by_name.setdefault(name, []).append(value)


def _train(folder: Path, optimizer: OptimizerSpec = RECIPE.optimizer) -> dict[str, list[float]]:
    metrics = _Metrics()
    task = TrainTask(
        dataset_uri=str(ASSETS),
        checkpoint_uri=str(ASSETS / "hf_ckpt" / "gptj_v512"),
        training=RECIPE.model_copy(update={"optimizer": optimizer}),
        target=TargetSpec(kind="cpu"),
        output_uri=str(folder),
    )
    loop.train(task, metrics)
    return metrics.by_name


def _drift(found: list[float], recorded: list[float]) -> float:
    assert len(found) == len(recorded) == 20
    return max(abs(a - b) for a, b in zip(found, recorded, strict=True))


def test_twenty_losses_rates_and_gradient_norms_are_those_recorded(tmp_path: Path) -> None:
    found = _train(tmp_path)

    assert _drift(found["train_loss"], RECORDED["loss"]) < TOLERANCE
    assert _drift(found["train_grad_norm"], RECORDED["gradient_norm"]) < TOLERANCE
    assert _drift(found["train_lr"], RECORDED["learning_rate"]) < 1e-9


def test_torch_adamw_would_drift_beyond_the_tolerance(tmp_path: Path) -> None:
    # The planted mistake: eps after the bias correction of the second moment.
    torch_order = OptimizerSpec(**{**RECIPE.optimizer.model_dump(), "name": "adamw_torch"})

    drift = _drift(_train(tmp_path, torch_order)["train_loss"], RECORDED["loss"])

    assert drift > 50 * TOLERANCE
    assert math.isfinite(drift)


def test_decay_of_biases_and_norms_would_drift_beyond_the_tolerance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "regraft_worker.trainer.optimizer.decayed",
        lambda model: dict.fromkeys((name for name, _ in model.named_parameters()), True),
    )

    assert _drift(_train(tmp_path)["train_loss"], RECORDED["loss"]) > 5 * TOLERANCE
