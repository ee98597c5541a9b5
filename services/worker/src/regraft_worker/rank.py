"""One of several training processes, as torchrun starts it: `python -m regraft_worker.rank <folder>`.

The folder holds the task; a file `stop` in it is the request to save and stop. The main process (rank 0) writes the
lines of a stage process; others write nothing but what made them fail, for the main one may only see them vanish.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from regraft import child
from regraft.ports import Progress
from regraft.processes import die_with
from regraft.specs import Spec, TrainTask
from regraft_worker.launch import STOP, TASK


class RankProgress(child.LineProgress):
    """Lines of the main process; of others only an error."""

    def __init__(self, out: TextIO, *, rank: int, stop: Path) -> None:
        super().__init__(out)
        self._main, self._stop_file = rank == 0, stop

    def is_asked_to_stop(self) -> bool:
        return self._stop_file.exists()

    def write(self, type_: str, **fields: Any) -> None:
        if self._main or type_ == "error":
            super().write(type_, **fields)


def main(folder: Path, environment: Mapping[str, str]) -> int:
    """Train; returns the exit status."""
    die_with(str(os.getppid()))
    out = child.take_stdout()
    rank = int(environment["RANK"])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"[{rank}] {child.LOG_FORMAT}")
    progress = RankProgress(out, rank=rank, stop=folder / STOP)
    return child.call(_train, (folder / TASK).read_text(encoding="utf-8"), progress)


def _train(task: str, progress: Progress) -> Spec:
    from regraft_worker.trainer.distributed import world_for
    from regraft_worker.trainer.loop import train
    from regraft_worker.trainer.targets import target_for

    asked = TrainTask.model_validate_json(task)
    return train(asked, progress, world=world_for(target_for(asked.target)))


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), os.environ)
    logging.shutdown()
    sys.stderr.flush()
    # At once: taking the group's threads down with the interpreter now and then ends in an abort, after all is done.
    os._exit(status)
