"""How many sequences a device takes at a time: as asked, or as many as `regraft.sizing` estimates to fit.

The same estimate answers `POST /jobs/plan`, so a run does what its plan said. It errs to both sides: docs/plan.md
compares it with measured runs, a twentieth of the device is left free for that, and where it is wrong,
`training.micro_batch_size` says better. It looks at the memory the device has in all, not at what happens to be free,
so that the same job is cut in the same way each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from regraft.errors import InvalidInputError
from regraft.families import Architecture
from regraft.sizing import Setup, fit_of
from regraft.specs import TrainingSpec


@dataclass(frozen=True)
class MicroBatch:
    """The division of one device's part of a step."""

    size: int
    """Sequences at a time, at most."""
    parts: int
    """Times a step."""
    why: str
    """For the job's history."""


def micro_batch(
    spec: TrainingSpec, architecture: Architecture, setup: Setup, *, device: str, memory_bytes: int
) -> MicroBatch:
    """The division on devices named `device` (as torch names them) that have `memory_bytes` each.

    Raises:
        InvalidInputError: the batch cannot be divided among the processes.
    """
    if spec.batch_size % setup.devices:
        raise InvalidInputError(
            f"{setup.devices} devices cannot share this batch evenly",
            field="training.batch_size",
            value=spec.batch_size,
            remedy=f"Use a multiple of {setup.devices}, or another number of devices.",
        )
    own = setup.per_device
    if spec.micro_batch_size is not None:
        return _divided(own, min(own, spec.micro_batch_size), "as asked")
    fit = fit_of(architecture, setup, memory_bytes=memory_bytes, on_cpu=device == "cpu")
    why = f"estimated: at most {fit.largest} fit {memory_bytes / 2**30:.3g} GiB"
    return _divided(own, max(1, fit.largest), why)


def _divided(own: int, size: int, why: str) -> MicroBatch:
    parts = math.ceil(own / size)
    even = math.ceil(own / parts)
    text = f"{even} sequence(s) at a time on each device, {parts} time(s) a step ({why})"
    return MicroBatch(size=even, parts=parts, why=text)
