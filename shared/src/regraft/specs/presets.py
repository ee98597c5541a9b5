"""Named schedules for continued pre-training, which become plain parts before a job is checked.

A job that names a preset is stored with its parts, so what a run will do can be read from the job. Continued
pre-training starts from weights whose own schedule has ended at a small rate. Raising the rate again and letting it
fall again takes up new text far better than going on at the small rate, and costs some of what was known, which a share
of the old text in the mixture gives back (Ibrahim et al. 2024, arXiv:2403.08763); a hold between the two is the
warmup-stable-decay schedule (Hu et al. 2024, arXiv:2404.06395), which can be lengthened later.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from regraft.specs.base import Spec
from regraft.specs.schedule import Rate, Steps

Parts = list[dict[str, object]]


class SchedulePreset(Spec):
    """A schedule by name: `{preset: rewarm_redecay, peak: 6.0e-6}`."""

    preset: Literal["rewarm_redecay", "warmup_stable_decay"]
    """`rewarm_redecay`: a line up to `peak`, half a cosine down to `to`.
    `warmup_stable_decay`: a line up to `peak`, a hold, a line down to `to` over the last `decay_share` of the steps."""
    peak: float = Field(gt=0.0)
    """The highest rate."""
    from_: Rate = Field(0.0, alias="from")
    """Rate of the first step; the one that the earlier training ended with, or 0."""
    to: Rate | None = None
    """Rate at the end; null: a tenth of `peak`."""
    warmup_share: float = Field(0.01, gt=0.0, lt=1.0)
    """Part of the steps that the rise takes, at least one step."""
    decay_share: float = Field(0.1, gt=0.0, lt=1.0)
    """Part of the steps that the fall of `warmup_stable_decay` takes, at least one step."""
    steps: Steps | None = None
    """Length of it all; null: `max_steps` of the training."""


def expand(given: SchedulePreset, *, max_steps: int | None) -> Parts:
    """The parts that a preset stands for; from the end on, the last rate.

    Raises:
        ValueError: the length is not known, or too short.
    """
    steps = given.steps or max_steps
    if steps is None:
        raise ValueError("a preset needs its length: give it `steps`, or the training `max_steps`")
    warm = max(1, round(given.warmup_share * steps))
    fall = steps - warm if given.preset == "rewarm_redecay" else max(1, round(given.decay_share * steps))
    hold = steps - warm - fall
    if fall < 1 or hold < 0:
        raise ValueError(f"{steps} steps are too few for the shares of this preset")
    end = given.peak / 10 if given.to is None else given.to
    rise: dict[str, object] = {"linear": {"from": given.from_, "to": given.peak, "steps": warm}}
    down = {"from": given.peak, "to": end, "steps": fall}
    if given.preset == "rewarm_redecay":
        return [rise, {"cosine": down}]
    held: Parts = [{"constant": {"value": given.peak, "steps": hold}}] if hold else []
    return [rise, *held, {"linear": down}]
