"""Calls whose failure ends no training: trackers show what the job records anyway.

The first failure is told as a warning. After each one the tracker rests for a while, so that a server that is away does
not hold up every step; what would have been shown meanwhile is not shown later.
"""

from __future__ import annotations

import time
from collections.abc import Callable

REST_SECONDS = 300.0


class Guard:
    """Calls to one tracker."""

    def __init__(self, name: str, warn: Callable[[str], None], *, failures: tuple[type[Exception], ...]) -> None:
        """`failures` are what it may fail of; all else goes on."""
        self._name, self._warn, self._failures = name, warn, failures
        self._told = False
        self._rests_until = 0.0

    def __call__(self, call: Callable[[], None]) -> None:
        """Make the call, unless the tracker rests."""
        if time.monotonic() < self._rests_until:
            return
        try:
            call()
        except self._failures as error:
            self._rests_until = time.monotonic() + REST_SECONDS
            if not self._told:
                self._warn(f"{self._name} fails, and training goes on without: {error!r}")
            self._told = True
