"""The learning rate over the steps of a run, as parts one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Field, Tag

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


def _kind(part: object) -> str | None:
    """The one key of a part, so that an error speaks of that kind only."""
    keys = list(part) if isinstance(part, Mapping) else list(type(part).model_fields) if isinstance(part, Spec) else []
    return str(keys[0]) if len(keys) == 1 else None


SchedulePart = Annotated[
    Annotated[LinearSchedule, Tag("linear")]
    | Annotated[CosineSchedule, Tag("cosine")]
    | Annotated[ConstantSchedule, Tag("constant")],
    Discriminator(
        _kind,
        custom_error_type="schedule_part",
        custom_error_message="A part of a schedule has exactly one key: linear, cosine or constant",
    ),
]
