"""Learning rates by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regraft.specs import TrainingSpec
from regraft_worker.trainer.schedule import Schedule, schedule_of

RECORDED = Path(__file__).parents[2] / "assets" / "modelzoo" / "train" / "train_20steps.json"
PARTS = [
    {"linear": {"from": 0.0, "to": 1e-3, "steps": 5}},
    {"cosine": {"from": 1e-3, "to": 2e-4, "steps": 15}},
    {"constant": {"value": 3e-4}},
]


def _schedule(parts: list[dict[str, Any]]) -> Schedule:
    spec = TrainingSpec.model_validate({"schedule": parts})
    return schedule_of(spec, max_steps=1)


def test_rates_are_those_of_the_model_zoo() -> None:
    recorded = json.loads(RECORDED.read_text())["learning_rate"]

    assert [_schedule(PARTS).rate(step) for step in range(20)] == pytest.approx(recorded, abs=1e-10)


def test_each_part_counts_from_its_own_start() -> None:
    schedule = _schedule(PARTS)

    assert [schedule.rate(step) for step in (0, 1, 5)] == pytest.approx([0.0, 2e-4, 1e-3])
    assert schedule.rate(5 + 5) == pytest.approx(2e-4 + 0.5 * 8e-4 * 1.5)  # cos(pi / 3) = 1 / 2
    assert [schedule.rate(step) for step in (20, 21, 10**9)] == [3e-4, 3e-4, 3e-4]


@pytest.mark.parametrize("part", ["linear", "cosine"])
def test_the_last_part_stays_at_its_end(part: str) -> None:
    schedule = _schedule([{"constant": {"value": 0.5, "steps": 2}}, {part: {"from": 1.0, "to": 0.25, "steps": 4}}])

    assert [schedule.rate(step) for step in (0, 1, 2, 6, 7, 100)] == pytest.approx([0.5, 0.5, 1.0, 0.25, 0.25, 0.25])


def test_the_default_warms_up_for_a_hundredth_and_falls_to_a_tenth() -> None:
    schedule = schedule_of(TrainingSpec(learning_rate=1e-3), max_steps=1000)

    assert [schedule.rate(step) for step in (0, 5, 10)] == pytest.approx([0.0, 5e-4, 1e-3])
    assert schedule.rate(10 + 495) == pytest.approx(5.5e-4)
    assert [schedule.rate(step) for step in (1000, 2000)] == pytest.approx([1e-4, 1e-4])
    assert all(schedule.rate(step) > schedule.rate(step + 1) for step in range(10, 1000))


def test_the_default_of_a_short_run_warms_up_for_one_step() -> None:
    schedule = schedule_of(TrainingSpec(learning_rate=1.0), max_steps=3)

    assert [schedule.rate(step) for step in range(4)] == pytest.approx([0.0, 1.0, 0.55, 0.1])
