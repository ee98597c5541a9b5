"""Dynamic loss scaling for fp16, whose smallest gradients would otherwise vanish.

The loss is multiplied by a scale before the backward pass and the gradients divided by it after. A step whose
gradients are not finite is left out and the scale halved; after 2000 good steps in a row it doubles. The values are
those of the Cerebras Model Zoo on GPUs (2.10) and of torch's GradScaler. bf16 has the exponents of fp32 and needs none
of this.

It is our own and not torch's because its state must be plain numbers in a checkpoint and because overflow is decided by
the global norm, which every process knows alike.
"""

from __future__ import annotations

INITIAL = 2.0**16
MINIMUM = 2.0**-14
GROWTH_INTERVAL = 2000


class LossScaler:
    """The scale and what led to it."""

    def __init__(self) -> None:
        self.scale = INITIAL
        self.good_steps = 0
        self.skipped = 0

    def overflowed(self, *, finite: bool) -> bool:
        """Count a step; true when it is to be left out. Below the least scale nothing is left out any more: then it is
        not the scale that makes gradients infinite, and whoever judges the step shall see it."""
        if not finite and self.scale > MINIMUM:
            self.scale, self.good_steps, self.skipped = self.scale / 2, 0, self.skipped + 1
            return True
        self.good_steps += 1
        if self.good_steps == GROWTH_INTERVAL:
            self.scale, self.good_steps = self.scale * 2, 0
        return False

    def scalars(self) -> dict[str, float | int]:
        """For a checkpoint."""
        return {"loss_scale": self.scale, "loss_scale_good_steps": self.good_steps, "skipped_steps": self.skipped}

    def restore(self, scalars: dict[str, float | int]) -> None:
        """As `scalars` said; what it did not say, because the run was of another precision, as at the start."""
        self.scale = float(scalars.get("loss_scale", INITIAL))
        self.good_steps = int(scalars.get("loss_scale_good_steps", 0))
        self.skipped = int(scalars.get("skipped_steps", 0))
