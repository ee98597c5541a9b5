"""A `Progress` for work inside a stage that reports something else: only the wish to stop goes through."""

from __future__ import annotations

from collections.abc import Callable

from regraft.errors import InterruptedStageError
from regraft.ports import NullProgress, Progress


class Quiet(NullProgress):
    """`check` is called instead of asking, and raises what ends the work."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def should_stop(self) -> bool:
        self._check()
        return False


def stop_if_asked(progress: Progress) -> None:
    """Raise InterruptedStageError once the stage shall stop."""
    if progress.should_stop():
        raise InterruptedStageError("stopped; calling again goes on from the newest checkpoint")
