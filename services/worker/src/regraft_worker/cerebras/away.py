"""A cluster that cannot be reached, by us or by the client: waited for, longer each time, for days if need be.

That is a condition of the stage and never its failure. Only a client that got something done makes the waits short
again: a csctl that answers says nothing of the client's own way to the cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from regraft.cerebrassite import CerebrasSite
from regraft.ports import Progress
from regraft_worker.cerebras.csctl import Csctl, UnreachableError
from regraft_worker.cerebras.quiet import stop_if_asked
from regraft_worker.cerebras.states import UNREACHABLE, Failure

_TICK = 0.2


class Away:
    """The waits of one attempt. Every method that waits raises InterruptedStageError once the stage shall stop."""

    def __init__(self, progress: Progress, csctl: Csctl, site: CerebrasSite) -> None:
        self._progress, self._csctl, self._site = progress, csctl, site
        self._wait = site.backoff_seconds

    def explains(self, failure: Failure) -> bool:
        """Whether the client failed because it, or now csctl, cannot reach the cluster."""
        return failure.reason == UNREACHABLE or not self._answers()

    def wait(self, message: str) -> None:
        """Say that the cluster is away, and wait; the next time twice as long."""
        self._progress.condition(UNREACHABLE, f"{message}; asked again in {self._wait:g} s at the latest")
        end = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, self._site.backoff_max_seconds)
        while (left := end - time.monotonic()) > 0:
            stop_if_asked(self._progress)
            time.sleep(min(_TICK, left))

    def over(self) -> None:
        """The client got something done: the next wait is a short one."""
        self._wait = self._site.backoff_seconds

    def insist(self, action: Callable[[], None]) -> None:
        """Do what takes a cluster that answers, however long it takes to."""
        while True:
            try:
                action()
            except UnreachableError as error:
                self.wait(error.message)
            else:
                return

    def _answers(self) -> bool:
        try:
            self._csctl.jobs()
        except UnreachableError:
            return False
        return True
