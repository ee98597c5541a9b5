"""What every target has in common about several processes."""

from __future__ import annotations

import os

from regraft.errors import InvalidInputError
from regraft.specs import TrainingSpec


def resolve(strategy: str, devices: int) -> str:
    """`auto` in plain words: sharding never needs more memory than replicas do."""
    if strategy != "auto":
        return strategy
    return "single" if devices == 1 else "fsdp"


def local_rank() -> int:
    """Which of this machine's training processes this is; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def processes() -> int:
    """How many training processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_devices(asked: int, found: int, what: str) -> None:
    """Raise unless there are so many."""
    if not 1 <= asked <= found:
        raise InvalidInputError(
            f"there are not so many: {what} has {found}",
            field="target.devices",
            value=asked,
            remedy=f"Ask for at most {found}." if found else "Train on another target.",
            reason="target_not_available",
        )


def check_strategy(training: TrainingSpec, strategy: str) -> None:
    """Raise for what a strategy cannot do."""
    if strategy == "fsdp" and training.optimizer.name == "adamw_8bit":
        raise InvalidInputError(
            "8-bit moments are quantised in blocks that sharding would cut",
            field="training.optimizer.name",
            value="adamw_8bit",
            remedy="Use adamw with fsdp, whose moments are divided among the devices; or ddp.",
        )


def no_such_precision(precision: str, remedy: str, *, message: str = "unknown precision") -> InvalidInputError:
    """The error for a precision that a target lacks."""
    return InvalidInputError(message, field="precision", value=precision, remedy=remedy)
