"""What a killed worker leaves behind on its machine: its processes are ended, its stages given back at once."""

from __future__ import annotations

import logging
import time

from regraft.child import SUPERVISOR
from regraft.holdings import Holding, take_over
from regraft.jobstore import UNREACHABLE
from regraft.jobstore.losses import Losses
from regraft.processes import kill_orphans
from regraft.settings import Settings

log = logging.getLogger(__name__)

ORPHANS_SECONDS = 5.0


class Successor:
    """Any worker of the machine; `look` may be called from any thread, and by several workers at once."""

    def __init__(self, losses: Losses, settings: Settings) -> None:
        self._losses = losses
        self._settings = settings

    def look(self) -> None:
        """Give back what workers of this machine held that were killed, without waiting for their leases."""
        try:
            take_over(self._settings.home, self._give_back)
        except UNREACHABLE as error:
            log.warning("the database is unreachable, what killed workers held stays where it is: %s", error)

    def _give_back(self, lost: Holding) -> bool:
        deadline = time.monotonic() + ORPHANS_SECONDS
        while self.clear_away():  # killed, and perhaps not yet gone
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        if self._losses.give_back(lost.stage_id, epoch=lost.epoch, worker=lost.worker):
            log.warning("%s: took it back from %s, which was killed", lost.stage_id, lost.worker)
        return True

    def clear_away(self) -> int:
        """End what a supervisor that was killed has left running on this machine; returns how many there were."""
        count = kill_orphans(SUPERVISOR, mark=f"REGRAFT_HOME={self._settings.home}")
        if count:
            log.warning("ended %d processes whose supervisor is gone", count)
        return count
