"""The learning rate over the steps of a run, as parts one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from regraft.specs.base import Spec

Rate = Annotated[float, Field(ge=0.0)]
Steps = Annotated[int, Field(ge=1)]


class LinearPart(Spec):
    """From one rate to another along a straight line."""

    from_: Rate = Field(alias="from")
    """Rate at the first step."""
    to: Rate
    """Rate after `steps` steps, and from then on."""
    steps: Steps
    """Length in optimiser steps."""


class CosinePart(Spec):
    """From one rate to another along half a cosine."""

    from_: Rate = Field(alias="from")
    """Rate at the first step."""
    to: Rate
    """Rate after `steps` steps, and from then on."""
    steps: Steps
    """Length in optimiser steps."""


class ConstantPart(Spec):
    """The same rate throughout."""

    value: Rate
    """The rate."""
    steps: Steps | None = None
    """Length in optimiser steps; only the last part may leave it out."""


class PolynomialPart(Spec):
    """From one rate to another along (1 - done)^power."""

    from_: Rate = Field(alias="from")
    """Rate at the first step."""
    to: Rate
    """Rate after `steps` steps, and from then on."""
    power: float = Field(1.0, gt=0.0)
    """1 is a straight line; larger ones fall fast at first."""
    steps: Steps
    """Length in optimiser steps."""


class ExponentialPart(Spec):
    """Multiplied by `decay_rate` over every `steps` steps; as the last part it goes on falling."""

    from_: Rate = Field(alias="from")
    """Rate at the first step."""
    decay_rate: float = Field(gt=0.0)
    """Factor after `steps` steps."""
    steps: Steps
    """Length in optimiser steps, and the time `decay_rate` is about."""
    staircase: bool = False
    """Change at whole multiples of `steps` only."""


class InverseSquareRootPart(Spec):
    """`value` * `scale` / sqrt(max(step, `warmup_steps`))."""

    value: Rate = 1.0
    """A factor, the initial rate of the Cerebras Model Zoo."""
    scale: Rate = 1.0
    """Another factor."""
    warmup_steps: Steps = 1
    """The rate stays the same for so many steps and falls from there."""
    steps: Steps | None = None
    """Length in optimiser steps; only the last part may leave it out."""


class PiecewiseConstantPart(Spec):
    """Constant rates that change at given steps."""

    values: tuple[Rate, ...] = Field(min_length=1)
    """The rates, one more than there are milestones."""
    milestones: tuple[Steps, ...] = ()
    """Steps, counted from the start of the part, at which the next rate begins."""
    steps: Steps | None = None
    """Length in optimiser steps; only the last part may leave it out."""

    @model_validator(mode="after")
    def _fits(self) -> PiecewiseConstantPart:
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError("give one rate more than there are milestones")
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError("milestones rise")
        return self


class LinearSchedule(Spec):
    """A straight part of a schedule."""

    linear: LinearPart
    """The part."""


class CosineSchedule(Spec):
    """A cosine part of a schedule."""

    cosine: CosinePart
    """The part."""


class ConstantSchedule(Spec):
    """A constant part of a schedule."""

    constant: ConstantPart
    """The part."""


class PolynomialSchedule(Spec):
    """A polynomial part of a schedule."""

    polynomial: PolynomialPart
    """The part."""


class ExponentialSchedule(Spec):
    """An exponential part of a schedule."""

    exponential: ExponentialPart
    """The part."""


class InverseSquareRootSchedule(Spec):
    """An inverse square root part of a schedule."""

    inverse_square_root: InverseSquareRootPart
    """The part."""


class PiecewiseConstantSchedule(Spec):
    """A part of a schedule with several constant rates."""

    piecewise_constant: PiecewiseConstantPart
    """The part."""


_KINDS = ("linear", "cosine", "constant", "polynomial", "exponential", "inverse_square_root", "piecewise_constant")


def _kind(part: object) -> str | None:
    """The one key of a part, so that an error speaks of that kind only."""
    keys = list(part) if isinstance(part, Mapping) else list(type(part).model_fields) if isinstance(part, Spec) else []
    return str(keys[0]) if len(keys) == 1 else None


SchedulePart = Annotated[
    Annotated[LinearSchedule, Tag("linear")]
    | Annotated[CosineSchedule, Tag("cosine")]
    | Annotated[ConstantSchedule, Tag("constant")]
    | Annotated[PolynomialSchedule, Tag("polynomial")]
    | Annotated[ExponentialSchedule, Tag("exponential")]
    | Annotated[InverseSquareRootSchedule, Tag("inverse_square_root")]
    | Annotated[PiecewiseConstantSchedule, Tag("piecewise_constant")],
    Discriminator(
        _kind,
        custom_error_type="schedule_part",
        custom_error_message=f"A part of a schedule has exactly one key: {', '.join(_KINDS[:-1])} or {_KINDS[-1]}",
    ),
]


def length_of(part: SchedulePart) -> int | None:
    """Optimiser steps of a part; None when it has no end of its own."""
    (name,) = type(part).model_fields
    steps: int | None = getattr(part, name).steps
    return steps
