"""Learning rates by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

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


def _torch_rates(make: Any, steps: int) -> list[float]:
    """What one of torch's own schedulers gives, from 0.5."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_polynomials_and_exponentials_are_those_of_torch() -> None:
    schedulers = torch.optim.lr_scheduler
    polynomial = _schedule([{"polynomial": {"from": 0.5, "to": 0.0, "power": 2.0, "steps": 8}}])
    exponential = _schedule([{"exponential": {"from": 0.5, "decay_rate": 0.25, "steps": 4}}])
    stairs = _schedule([{"exponential": {"from": 0.5, "decay_rate": 0.25, "steps": 4, "staircase": True}}])

    assert [polynomial.rate(step) for step in range(12)] == pytest.approx(
        _torch_rates(lambda o: schedulers.PolynomialLR(o, total_iters=8, power=2.0), 12)
    )
    assert [exponential.rate(step) for step in range(12)] == pytest.approx(
        _torch_rates(lambda o: schedulers.ExponentialLR(o, gamma=0.25**0.25), 12)
    )
    assert [stairs.rate(step) for step in range(12)] == pytest.approx(
        _torch_rates(lambda o: schedulers.StepLR(o, step_size=4, gamma=0.25), 12)
    )


def test_inverse_square_roots_and_pieces() -> None:
    root = _schedule([{"inverse_square_root": {"value": 2.0, "scale": 3.0, "warmup_steps": 4}}])
    pieces = _schedule([{"piecewise_constant": {"values": [3.0, 2.0, 1.0], "milestones": [2, 5]}}])

    assert [root.rate(step) for step in (0, 4, 16, 100)] == pytest.approx([3.0, 3.0, 1.5, 0.6])
    assert [pieces.rate(step) for step in range(7)] == _torch_rates_of_pieces(7)


def _torch_rates_of_pieces(steps: int) -> list[float]:
    factors = {0: 6.0, 1: 4.0, 2: 2.0}  # of 0.5
    return _torch_rates(
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: factors[(step >= 2) + (step >= 5)]), steps
    )


def test_every_kind_has_its_place_in_a_chain() -> None:
    schedule = _schedule(
        [
            {"inverse_square_root": {"steps": 2}},
            {"piecewise_constant": {"values": [0.25, 0.125], "milestones": [1], "steps": 2}},
            {"exponential": {"from": 1.0, "decay_rate": 0.5, "steps": 2}},
            {"polynomial": {"from": 1.0, "to": 0.5, "steps": 2}},
        ]
    )

    assert [schedule.rate(step) for step in range(9)] == pytest.approx(
        [1.0, 1.0, 0.25, 0.125, 1.0, 0.5**0.5, 1.0, 0.75, 0.5]
    )
    with pytest.raises(ValidationError, match="last part"):
        _schedule([{"inverse_square_root": {}}, {"constant": {"value": 1.0}}])


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"piecewise_constant": {"values": [1.0], "milestones": [2]}}, "one rate more"),
        ({"piecewise_constant": {"values": [1.0, 2.0, 3.0], "milestones": [2, 2]}}, "rise"),
        ({"sine": {}}, "polynomial"),
    ],
)
def test_parts_that_cannot_be(part: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        _schedule([part])


def test_a_preset_becomes_the_parts_it_stands_for() -> None:
    spec = TrainingSpec.model_validate({"max_steps": 200, "schedule": {"preset": "rewarm_redecay", "peak": 1e-3}})

    assert spec.model_dump(mode="json", by_alias=True)["schedule"] == [
        {"linear": {"from": 0.0, "to": 1e-3, "steps": 2}},
        {"cosine": {"from": 1e-3, "to": 1e-4, "steps": 198}},
    ]
    assert TrainingSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec
    stable = {"preset": "warmup_stable_decay", "peak": 1.0, "from": 0.1, "to": 0.0, "warmup_share": 0.1, "steps": 10}
    schedule = schedule_of(TrainingSpec.model_validate({"schedule": stable}), max_steps=10)
    assert [schedule.rate(step) for step in range(11)] == pytest.approx([0.1, *[1.0] * 9, 0.0])


def test_a_preset_without_a_length_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_steps"):
        TrainingSpec.model_validate({"schedule": {"preset": "rewarm_redecay", "peak": 1.0}})
    with pytest.raises(ValidationError, match="too few"):
        TrainingSpec.model_validate({"max_steps": 1, "schedule": {"preset": "rewarm_redecay", "peak": 1.0}})
