"""Helping at a dataset that another machine prepares: the same units, claimed one by one, for as long as there are any.

The lead does not depend on helpers and does not know them; it sees units become done. A helper knows from the lead's
claim that it is still there, and ends when it is not, when all is done, or when a unit fails: the lead will then meet
the same failure, and is the one to say so.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from regraft.errors import InterruptedStageError
from regraft_dataprep.crew import Crew
from regraft_dataprep.encoders import DifferentIdsError
from regraft_dataprep.hands import Hands
from regraft_dataprep.resources import Resources
from regraft_dataprep.units import LEAD, PLAN, SETUP, Units
from regraft_dataprep.work import WorkFolder

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def assist(path: Path, resources: Resources | None = None) -> int:
    """Help at the work folder `path`; the number of units that became done meanwhile, here or elsewhere."""
    if not (path / SETUP).is_dir():
        return 0
    watch = _Watch(WorkFolder(path))
    try:
        units = Units(watch.work)
        processes = (resources or Resources()).processes_for(len(units.parts()))
        source = Hands(tokenizer_uri=units.task.tokenizer_uri, special_tokens=units.spec.special_tokens)
        with source, Crew(watch.work, processes=processes, source=source) as crew:
            crew.run(units, units.parts(), watch)
            while not watch.work.is_done(PLAN):
                watch.check()
                time.sleep(_POLL_SECONDS)
            crew.run(units, units.files(), watch)
    except (InterruptedStageError, DifferentIdsError) as error:
        log.info("%s", error)
    except FileNotFoundError:
        if (path / SETUP).is_dir():
            raise
        log.info("the work folder is gone: all is done")
    return watch.seen


class _Watch:
    """Sees whether the lead is still there."""

    def __init__(self, work: WorkFolder) -> None:
        self.work = work
        self.seen = 0

    def check(self) -> None:
        if not self.work.is_claimed(LEAD):
            raise InterruptedStageError("the lead is gone, or done")

    def tick(self, unit: str, first: int, second: int) -> None:
        return

    def done(self, unit: str) -> None:
        self.seen += 1
