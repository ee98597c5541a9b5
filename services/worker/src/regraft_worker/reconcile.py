"""Jobs of a Cerebras cluster whose attempt is gone, and that nobody follows up: found by label, and cancelled.

A stage that is tried again ends what its earlier attempts left. But one that was cancelled, or that nobody takes up
for a while, has no next attempt; so every worker that offers the cluster looks now and then. Jobs of other deployments
carry names that this one does not know, and are let alone.

The trade-off: two workers may look at the same moment, and both cancel; the second finds nothing left to do.
"""

from __future__ import annotations

import logging
import threading

from sqlalchemy import Engine

from regraft.jobs import StageStatus
from regraft.jobstore import UNREACHABLE
from regraft.jobstore.standing import standing_of
from regraft_worker.cerebras.csctl import Csctl, UnreachableError
from regraft_worker.cerebras.marks import mark_of

log = logging.getLogger(__name__)


class Reconciler:
    """Looks from a thread of its own."""

    def __init__(self, engine: Engine, csctl: Csctl, *, seconds: float = 30.0) -> None:
        self._engine, self._csctl, self._seconds = engine, csctl, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End before the next look."""
        self._stop.set()

    def sweep(self) -> list[str]:
        """Cancel what nobody follows up; returns the ids.

        Raises:
            UnreachableError: the cluster does not answer.
        """
        gone = []
        for listed in self._csctl.jobs():
            mark = None if listed.ended else mark_of(listed.labels)
            if mark is None:
                continue
            found = standing_of(self._engine, mark.job, mark.stage)
            # Of a stage that runs, the attempt itself sees to what was left before it.
            if found is not None and found.status is not StageStatus.RUNNING and mark.epoch <= found.epoch:
                self._csctl.cancel(listed.id)
                log.warning("%s of %s, attempt %d, was left over and is cancelled", listed.id, mark.job, mark.epoch)
                gone.append(listed.id)
        return gone

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.sweep()
            except UnreachableError as error:
                log.info("jobs of the cluster are not looked at: %s", error)
            except UNREACHABLE as error:
                log.warning("the database is unreachable, trying again: %s", error)
