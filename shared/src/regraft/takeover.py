"""What a killed worker leaves behind on its machine: its processes are ended, its stages given back at once."""

from __future__ import annotations

import logging
import time

from sqlalchemy.exc import SQLAlchemyError

from regraft.attempt import MARK
from regraft.child import SUPERVISOR
from regraft.holdings import Holding, take_over
from regraft.jobstore.losses import Losses
from regraft.processes import kill_of, kill_orphans
from regraft.settings import Settings

log = logging.getLogger(__name__)

ORPHANS_SECONDS = 5.0


class Successor:
    """Of any worker of the machine; `look` may be called from any thread, and by several processes at once."""

    def __init__(self, losses: Losses, settings: Settings) -> None:
        self._losses = losses
        self._settings = settings
        self._mark = f"REGRAFT_HOME={settings.home}"

    def look(self) -> None:
        """Give back what workers of this machine held that were killed, without waiting for their leases.

        Raises nothing of the database's or of the files': where this cannot be done, the leases run out.
        """
        try:
            take_over(self._settings.home, self._give_back)
        except (SQLAlchemyError, OSError) as error:
            log.warning("what killed workers held stays where it is: %s", error)

    def _give_back(self, lost: Holding) -> bool:
        prefix, deadline = f"{MARK}={lost.stage_id}:{lost.epoch}:", time.monotonic() + ORPHANS_SECONDS
        while kill_of(prefix, mark=self._mark):  # killed, and perhaps not yet gone
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        if self._losses.give_back(lost.stage_id, epoch=lost.epoch, worker=lost.worker):
            log.warning("%s: took it back from %s, which was killed", lost.stage_id, lost.worker)
        return True

    def clear_away(self) -> None:
        """End what supervisors that were killed have left running on this machine, whether there is a note or not."""
        if count := kill_orphans(SUPERVISOR, mark=self._mark):
            log.warning("ended %d processes whose supervisor is gone", count)
