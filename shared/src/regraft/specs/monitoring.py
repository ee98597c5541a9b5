"""When a run is scored and saved, and which checkpoints stay."""

from __future__ import annotations

from typing import Literal

from regraft.specs.base import Spec
from regraft.specs.schedule import Steps


class EvaluationSpec(Spec):
    """Evaluation while training."""

    every_steps: Steps | None = None
    """Score the held-out set every so many steps; null: only before and after."""


class CheckpointSpec(Spec):
    """Saving while training."""

    every_steps: Steps = 1000
    """Save every so many steps, and at the last one."""
    keep_last: Steps = 3
    """Checkpoints kept; older ones are deleted, the best one excepted."""
    keep_best: Literal["val_loss"] | None = None
    """Also keep the checkpoint with the lowest held-out loss."""
