"""The processes that train one model together, as each of them sees it.

Everything that must happen once (reports, files, reading what a supervisor says) is the main process's; what every
process must decide alike is decided there and agreed on. `Alone` is the world of a single process.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class World(Protocol):
    """What a training process knows of the others."""

    rank: int
    """0 is the main process."""
    size: int
    """Number of processes."""

    def agree(self, flag: bool) -> bool:
        """The main process's flag, in every process."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in every process."""

    def barrier(self) -> None:
        """Wait for all processes."""


class Alone:
    """One process."""

    rank, size = 0, 1

    def agree(self, flag: bool) -> bool:
        """Nobody else is asked."""
        return flag

    def total(self, values: Tensor) -> Tensor:
        """There is nothing to add."""
        return values

    def barrier(self) -> None:
        """Nobody is waited for."""
