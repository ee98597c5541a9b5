"""Learning rate by step: parts one after the other, each counted from its own start.

The rate is a pure function of the step, so a resumed run needs no scheduler state. Optimiser step k (counted from 1)
uses `rate(k - 1)`: a warm-up from 0 makes step 1 a step of rate 0, as in the Cerebras Model Zoo, whose schedulers of
the same names these formulas are (t: steps since the start of the part, N: its length):

    Linear             (from - to) (1 - t/N) + to,             from t = N on: to
    CosineDecay        (from - to) (1 + cos(pi t/N)) / 2 + to,  from t = N on: to
    Polynomial         (from - to) (1 - t/N)^power + to,        from t = N on: to
    Exponential        from * decay_rate^(t/N);                 staircase: floor(t/N)
    InverseSquareRoot  value * scale / sqrt(max(t, warmup_steps))
    PiecewiseConstant  the i-th value once i milestones are reached
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from regraft.specs import TrainingSpec
from regraft.specs.schedule import (
    ConstantSchedule,
    CosinePart,
    CosineSchedule,
    ExponentialPart,
    ExponentialSchedule,
    InverseSquareRootPart,
    InverseSquareRootSchedule,
    LinearPart,
    LinearSchedule,
    PiecewiseConstantSchedule,
    PolynomialPart,
    PolynomialSchedule,
    SchedulePart,
    length_of,
)


class Schedule:
    """The rate after a number of finished steps."""

    def __init__(self, parts: Sequence[SchedulePart]) -> None:
        assert parts, "a schedule needs at least one part"
        self.parts = tuple(parts)

    def rate(self, step: int) -> float:
        """The rate that the step after `step` finished ones uses; past its length, the last part goes on as it does."""
        assert step >= 0, "steps are counted from 0"
        for part in self.parts[:-1]:
            length = length_of(part)
            assert length is not None, "only the last part is endless"
            if step < length:
                return _value(part, step)
            step -= length
        return _value(self.parts[-1], step)


def schedule_of(spec: TrainingSpec, *, max_steps: int) -> Schedule:
    """The schedule asked for, or the default one."""
    return Schedule(default_schedule(spec, max_steps=max_steps) if spec.schedule is None else spec.schedule)


def default_schedule(spec: TrainingSpec, *, max_steps: int) -> tuple[SchedulePart, ...]:
    """Warm up over the first 1 % of the steps (at least one), then a cosine to a tenth over the rest."""
    peak = spec.learning_rate
    warm = max(1, max_steps // 100)
    return (
        LinearSchedule(linear=LinearPart(**{"from": 0.0}, to=peak, steps=warm)),
        CosineSchedule(cosine=CosinePart(**{"from": peak}, to=peak / 10, steps=max(1, max_steps - warm))),
    )


def _value(part: SchedulePart, step: int) -> float:
    if isinstance(part, ConstantSchedule):
        return part.constant.value
    if isinstance(part, PiecewiseConstantSchedule):
        pieces = part.piecewise_constant
        return pieces.values[bisect_right(pieces.milestones, step)]
    if isinstance(part, ExponentialSchedule):
        return _exponential(part.exponential, step)
    if isinstance(part, InverseSquareRootSchedule):
        return _inverse_square_root(part.inverse_square_root, step)
    line = _line(part)
    return (line.from_ - line.to) * _remaining(line, step) + line.to


def _line(part: LinearSchedule | CosineSchedule | PolynomialSchedule) -> LinearPart | CosinePart | PolynomialPart:
    if isinstance(part, LinearSchedule):
        return part.linear
    return part.cosine if isinstance(part, CosineSchedule) else part.polynomial


def _remaining(line: LinearPart | CosinePart | PolynomialPart, step: int) -> float:
    """What is left of the way from one rate to the other, from 1 to 0."""
    done = min(step, line.steps) / line.steps
    if isinstance(line, CosinePart):
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if isinstance(line, LinearPart) else (1 - done) ** line.power


def _exponential(part: ExponentialPart, step: int) -> float:
    done = step / part.steps
    return float(part.from_ * part.decay_rate ** (math.floor(done) if part.staircase else done))


def _inverse_square_root(part: InverseSquareRootPart, step: int) -> float:
    return part.value * part.scale / math.sqrt(max(step, part.warmup_steps))
