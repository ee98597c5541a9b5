"""Whether a failed attempt is followed by another, when, and with what changed. Pure but for the dice.

- The platform's faults (`infrastructure`, `control_plane`) are retried with a wait that doubles. An attempt that left
  something durable behind starts the count anew: a run of weeks may lose a machine each day. A stage that fails
  `max_attempts` times in a row and gets nowhere is given up, so that it takes no further worker down.
- A full disk is waited for longer and more often: somebody has to make room.
- Too little memory is never met again in the same way: once with half the micro-batch, then the stage fails.
- What the user or the data is to blame for is not retried.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regraft.jobs import ReasonClass, StageName
from regraft.settings import Settings

OUT_OF_MEMORY = "out_of_memory"
MICRO_BATCH = "micro_batch_size"
JITTER = 0.5


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Another attempt."""

    delay: float
    """Seconds."""
    override: Mapping[str, Any] | None = None
    """What it does otherwise."""


def next_attempt(
    settings: Settings,
    *,
    reason: str | None,
    reason_class: ReasonClass | None,
    failures: int,
    attempts: int,
    halved: Mapping[str, Any] | None,
) -> Retry | None:
    """What follows the failure number `failures` in a row (from 1) of `attempts` in all; None: nothing.

    `halved` is the override that `half_the_batch` has found.
    """
    if attempts >= settings.retry_budget:
        return None
    if reason == OUT_OF_MEMORY:
        return None if halved is None else Retry(delay=0.0, override=halved)
    match reason_class:
        case ReasonClass.INFRASTRUCTURE | ReasonClass.CONTROL_PLANE if failures < settings.max_attempts:
            return Retry(delay=_wait(settings.retry_seconds, settings.retry_max_seconds, failures))
        case ReasonClass.CAPACITY if failures < settings.capacity_attempts:
            return Retry(delay=_wait(settings.capacity_seconds, settings.retry_max_seconds, failures))
    return None


def half_the_batch(stage: str, spec: Mapping[str, Any], override: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The override with half the micro-batch, once; None: nothing to halve. `spec` is a job's, as JSON."""
    if stage != StageName.TRAIN or (override and MICRO_BATCH in override):
        return None
    training = spec["training"]
    size = training.get(MICRO_BATCH) or training["batch_size"]
    return {**(override or {}), MICRO_BATCH: size // 2} if size >= 2 else None


def _wait(first: float, most: float, failures: int) -> float:
    # Jitter only adds: many stages that one outage has failed do not come back at one instant.
    return min(most, first * 2.0 ** min(failures - 1, 30)) * random.uniform(1.0, 1.0 + JITTER)
