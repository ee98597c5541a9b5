"""The recipes that come with Regraft: their figures, and the commands that show them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml

from regraft import recipes
from regraft.specs import CosineSchedule, JobSpec, LinearSchedule, TrainingSpec

INPUTS: dict[str, Any] = {"base_checkpoint": {"uri": "/base"}, "target": {"kind": "cpu"}}


def training(name: str) -> TrainingSpec:
    return JobSpec.model_validate({**INPUTS, "dataset": {"uri": "/corpus"}, "recipe": name}).training


@pytest.mark.parametrize(
    ("name", "batch", "steps", "peak", "floor", "warm", "cosine", "adam"),
    [
        ("gptj-6b-trc2", 56, 25_000, 6e-6, 1.2e-6, 500, 50_000, (0.999, 1e-6, 0.1)),
        ("gptj-6b-pile", 120, 1_493_333, 5.809e-5, 5.809e-6, 12_800, 1_280_000, (0.999, 1e-6, 0.1)),
        ("neox-20b-pile", 45, 4_614_000, 1.75e-5, 1.75e-6, 46_140, 4_567_860, (0.95, 1e-8, 0.01)),
    ],
)
def test_the_figures_are_the_published_ones(
    name: str, batch: int, steps: int, peak: float, floor: float, warm: int, cosine: int, adam: tuple[float, ...]
) -> None:
    found = training(name)
    assert (found.batch_size, found.max_steps, found.seed) == (batch, steps, 1)
    assert (found.optimizer.betas[1], found.optimizer.eps, found.optimizer.weight_decay) == adam
    assert found.schedule is not None
    rise, fall = found.schedule[:2]
    assert isinstance(rise, LinearSchedule)
    assert isinstance(fall, CosineSchedule)
    assert (rise.linear.from_, rise.linear.to, rise.linear.steps) == (0.0, peak, warm)
    assert (fall.cosine.from_, fall.cosine.to, fall.cosine.steps) == (peak, floor, cosine)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "regraft", *words], capture_output=True, text=True, check=False)


def test_the_list_names_each_of_them_and_says_what_it_is() -> None:
    lines = command("recipes", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipes.names()
    assert all(len(line.split()) > 5 for line in lines)


def test_a_recipe_is_shown_with_what_it_changed_and_an_unknown_one_is_refused() -> None:
    shown = command("recipes", "show", "gptj-6b-trc2")
    assert "gelu_new" in shown.stdout
    assert yaml.safe_load(shown.stdout)["training"]["batch_size"] == 56
    missing = command("recipes", "show", "gpt-5")
    assert missing.returncode == 1
    assert "gptj-6b-trc2" in missing.stderr
    assert "Traceback" not in missing.stderr
