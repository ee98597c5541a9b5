"""A watch for leaps of the training loss.

A loss is a spike when it is `threshold` standard deviations above the mean of the recent ones, or not finite. All of it
is exact arithmetic on numbers that checkpoints keep, so a resumed run sees the same spikes.

The trade-off: where losses hardly vary, a small step up is many deviations; a floor of a thousandth of the mean keeps
the last bits from being news. Not for finding slow divergence: that is what held-out scores are for.
"""

from __future__ import annotations

import math
from statistics import fmean, pstdev
from typing import Literal

from regraft.specs.monitoring import LossSpikeSpec
from regraft_worker.trainer.state import Spikes

Verdict = Literal["calm", "spike", "too_many"]
_FLOOR = 1e-3


def judged(spec: LossSpikeSpec, past: Spikes, loss: float, norm: float) -> tuple[Verdict, Spikes]:
    """What a step with this loss and gradient norm is, and what is known after it.

    A spike that will be skipped or rolled back does not count among the losses; one that is only warned of does, or a
    loss that stays up would be news for ever.
    """
    if not is_spike(spec, past.losses, loss, norm):
        return "calm", Spikes(losses=_with(past.losses, loss, spec.window))
    in_a_row = past.in_a_row + 1
    losses = _with(past.losses, loss, spec.window) if spec.policy == "warn" else past.losses
    too_many = spec.policy != "warn" and in_a_row > spec.limit
    return "too_many" if too_many else "spike", Spikes(losses=losses, in_a_row=in_a_row)


def is_spike(spec: LossSpikeSpec, losses: tuple[float, ...], loss: float, norm: float) -> bool:
    """Against the recent losses."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return True
    if len(losses) < min(spec.min_steps, spec.window):
        return False
    mean = fmean(losses)
    return loss > mean + spec.threshold * max(pstdev(losses), _FLOOR * abs(mean))


def _with(losses: tuple[float, ...], loss: float, window: int) -> tuple[float, ...]:
    return (*losses, loss)[-window:]
