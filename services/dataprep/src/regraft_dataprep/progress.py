"""Telling how a preparation goes: documents first, then windows.

How many documents there are is known once all parts are tokenised. Until then the total is estimated from the share of
the parts that are done, so that a percentage means something; before the first one is done there is none.
"""

from __future__ import annotations

import time

from regraft.errors import InterruptedStageError
from regraft.ports import Progress

_SECONDS_BETWEEN_REPORTS = 0.5


class Reporter:
    """A `crew.Watch` that reports to a job's progress."""

    def __init__(self, progress: Progress, *, parts: int) -> None:
        self._progress, self._parts = progress, parts
        self._done = self._done_documents = 0
        self._counts: dict[str, tuple[int, int]] = {}
        self._documents: int | None = None
        self._tokens = 0
        self._started = self._reported = time.monotonic()

    def check(self) -> None:
        """Raises InterruptedStageError when the stage was asked to stop."""
        if self._progress.should_stop():
            raise InterruptedStageError("data preparation was asked to stop; parts that are done are kept")

    def tick(self, unit: str, first: int, second: int) -> None:
        """Documents and tokens of a part, or windows of a file."""
        self._counts[unit] = first, second
        if time.monotonic() - self._reported >= _SECONDS_BETWEEN_REPORTS:
            self._report()

    def done(self, unit: str) -> None:
        """A part or a file is done."""
        if unit in self._counts:  # how much was in one of an earlier run is not known yet
            self._done += 1
            self._done_documents += self._counts[unit][0]

    def again(self) -> None:
        """From the start."""
        self._done, self._done_documents, self._counts = 0, 0, {}

    def decided(self, *, documents: int, tokens: int) -> None:
        """All parts are tokenised; windows come next."""
        self._documents, self._tokens = documents, tokens
        self._counts = {}
        self._report()

    def finished(self) -> None:
        """The last report."""
        self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        first = sum(count for count, _ in self._counts.values())
        if self._documents is not None:
            self._progress.step(self._documents, {"windows": float(first)}, total=self._documents, tokens=self._tokens)
            return
        metrics = {"documents_per_second": first / max(self._reported - self._started, 1e-9)}
        total = max(first, round(self._done_documents * self._parts / self._done)) if self._done else None
        self._progress.step(first, metrics, total=total, tokens=sum(tokens for _, tokens in self._counts.values()))
