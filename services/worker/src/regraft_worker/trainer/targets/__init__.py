"""Hardware to train on: one module per kind, found by its file name.

A target module offers `available()`, which says what this machine has without importing torch, and `Target`, a class
made with the number of devices and the strategy. One that has no devices of ours, because something else computes, has
`train(task, progress)` and `preflight(task, progress)` instead, which the stages call. Adding a kind adds a file here
and touches nothing else.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, cast

from regraft import discover
from regraft.errors import InvalidInputError
from regraft.specs import TargetSpec, TrainingSpec

PACKAGE = "regraft_worker.trainer.targets"


class Target(Protocol):
    """Where the arithmetic of this process happens."""

    device: str
    """torch's name of it, of this process's own one."""
    devices: int
    """How many there are, each with a process."""
    strategy: str
    """`single`, `ddp` or `fsdp`."""
    backend: str
    """What the processes talk through: `gloo` or `nccl`."""

    def prepare(self) -> None:
        """Set the process up: threads, device, deterministic algorithms."""

    def check(self, training: TrainingSpec) -> None:
        """Refuse what this hardware cannot do.

        Raises:
            InvalidInputError: names the field.
        """

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """The context in which forward passes run.

        Raises:
            InvalidInputError: the target has no such precision.
        """

    def memory_bytes(self) -> int:
        """What one device has for training, in all."""

    def memory(self) -> dict[str, float]:
        """Metrics: what is in use, at most so far."""


def target_for(spec: TargetSpec) -> Target:
    """The target a job asks for.

    Raises:
        InvalidInputError: there is no such kind, it has not that many devices, or none of ours at all.
    """
    module = discover.load(PACKAGE, spec.kind, field="target.kind")
    if not hasattr(module, "Target"):
        raise InvalidInputError(
            "this target has no device that a process here computes on",
            field="target.kind",
            value=spec.kind,
            remedy="Use cpu or gpu.",
        )
    return cast(Target, module.Target(spec.devices, spec.strategy))
