"""Learning rate by step: parts one after the other, each counted from its own start.

The rate is a pure function of the step, so a resumed run needs no scheduler state. Optimiser step k (counted from 1)
uses `rate(k - 1)`: a warm-up from 0 makes step 1 a step of rate 0, as in the Cerebras Model Zoo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from regraft.specs import TrainingSpec
from regraft.specs.schedule import (
    ConstantSchedule,
    CosinePart,
    CosineSchedule,
    LinearPart,
    LinearSchedule,
    SchedulePart,
)


class Schedule:
    """The rate after a number of finished steps."""

    def __init__(self, parts: Sequence[SchedulePart]) -> None:
        assert parts, "a schedule needs at least one part"
        self.parts = tuple(parts)

    def rate(self, step: int) -> float:
        """The rate that the step after `step` finished ones uses; past the end of the last part: its last value."""
        assert step >= 0, "steps are counted from 0"
        for part in self.parts[:-1]:
            length = _length(part)
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


def _length(part: SchedulePart) -> int | None:
    if isinstance(part, LinearSchedule):
        return part.linear.steps
    return part.cosine.steps if isinstance(part, CosineSchedule) else part.constant.steps


def _value(part: SchedulePart, step: int) -> float:
    if isinstance(part, ConstantSchedule):
        return part.constant.value
    line = part.linear if isinstance(part, LinearSchedule) else part.cosine
    done = min(step, line.steps) / line.steps
    remaining = 1 - done if isinstance(part, LinearSchedule) else 0.5 * (1 + math.cos(math.pi * done))
    return (line.from_ - line.to) * remaining + line.to
