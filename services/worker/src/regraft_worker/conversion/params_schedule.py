"""A schedule of learning rates in the words of a Cerebras params file."""

from __future__ import annotations

from regraft.specs import SchedulePart, TrainingSpec
from regraft.specs.schedule import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSquareRootSchedule,
    LinearSchedule,
    PiecewiseConstantSchedule,
    PolynomialSchedule,
    length_of,
)
from regraft_worker.trainer.schedule import schedule_of

Section = dict[str, object]


def schedule_parts(training: TrainingSpec, *, length_key: str) -> list[tuple[str, Section]]:
    """Cerebras' names without the ending `LR`, and the values; `length_key` is the release's word for a length."""
    assert training.max_steps is not None, "checked"
    return [_part(part, length_key) for part in schedule_of(training, max_steps=training.max_steps).parts]


def _part(part: SchedulePart, length_key: str) -> tuple[str, Section]:
    length = {} if length_of(part) is None else {length_key: length_of(part)}
    if isinstance(part, ConstantSchedule):
        return "Constant", {"learning_rate": part.constant.value, **length}
    if isinstance(part, InverseSquareRootSchedule):
        root = part.inverse_square_root
        rates = {"initial_learning_rate": root.value, "scale": root.scale, "warmup_steps": root.warmup_steps}
        return "InverseSquareRootDecay", rates | length
    if isinstance(part, PiecewiseConstantSchedule):
        pieces = part.piecewise_constant
        return "PiecewiseConstant", {
            "learning_rates": list(pieces.values),
            "milestones": list(pieces.milestones),
            **length,
        }
    if isinstance(part, ExponentialSchedule):
        falling = part.exponential
        rates = {"initial_learning_rate": falling.from_, "decay_rate": falling.decay_rate}
        return "Exponential", {**rates, **length, "staircase": falling.staircase}
    return _line(part, length)


def _line(part: LinearSchedule | CosineSchedule | PolynomialSchedule, length: Section) -> tuple[str, Section]:
    if isinstance(part, PolynomialSchedule):
        line, power = part.polynomial, {"power": part.polynomial.power}
        return "Polynomial", {"initial_learning_rate": line.from_, "end_learning_rate": line.to, **power, **length}
    name, ends = ("Linear", part.linear) if isinstance(part, LinearSchedule) else ("CosineDecay", part.cosine)
    return name, {"initial_learning_rate": ends.from_, "end_learning_rate": ends.to, **length}
