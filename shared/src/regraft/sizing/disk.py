"""What a job writes: prepared windows, the verified base, checkpoints of the run, exports. Bytes, rounded up."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.families import Architecture
from regraft.sizing.counts import counts_of
from regraft.specs import CheckpointSpec, OutputSpec

WEIGHT_BYTES = 4
MOMENT_BYTES = 8
BYTES_PER_TOKEN = 12
"""Of a window before compression: ids, loss mask and labels, int32 each."""
SMALLEST_SHARE = 0.1
"""Packed windows of English text compress to this or a little more."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes in the artifact storage."""

    base_checkpoint: int
    """The verified copy that training starts from."""
    checkpoints: int
    """The most that the run's checkpoints take, one being written while the oldest is still there."""
    exports: int
    dataset: int | None
    """Before compression, twice while it is being made; null: the size of the corpus is not known."""

    @property
    def total(self) -> int:
        """Of what is known."""
        return self.base_checkpoint + self.checkpoints + self.exports + (self.dataset or 0)


def disk_of(
    architecture: Architecture, checkpoint: CheckpointSpec, output: OutputSpec, *, steps: int | None, tokens: int | None
) -> Disk:
    """Estimate for a run of `steps` over a corpus of `tokens`; what is not known counts at its largest."""
    weights = counts_of(architecture).total * WEIGHT_BYTES
    one = weights + counts_of(architecture).total * MOMENT_BYTES
    return Disk(
        base_checkpoint=weights,
        checkpoints=_kept(checkpoint, steps) * one,
        exports=len(output.formats) * weights,
        dataset=None if tokens is None else tokens * BYTES_PER_TOKEN,
    )


def _kept(checkpoint: CheckpointSpec, steps: int | None) -> int:
    """Checkpoints that are there at once: those that stay, the best one, and the one being written."""
    stay = checkpoint.keep_last + (checkpoint.keep_best is not None) + 1
    every = checkpoint.every_steps
    if steps is None or every is None:
        return stay
    return min(stay, -(-steps // every))
