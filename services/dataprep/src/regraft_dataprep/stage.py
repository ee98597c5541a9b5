"""The stage process of this service: `python -m regraft_dataprep.stage prepare`, or `assist` at a work folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from regraft import child
from regraft.mirrored import through
from regraft.ports import Progress
from regraft.processes import die_with
from regraft.specs import PrepareTask, Spec
from regraft_dataprep.resources import keep_to_one_thread


def _prepare(task: str, progress: Progress) -> Spec:
    keep_to_one_thread()
    from regraft_dataprep.start import prepare

    return prepare(PrepareTask.model_validate_json(task), progress)


def _assist() -> int:
    """Has nothing to report: what it does lies in the work folder, and what fails there the lead meets itself."""
    keep_to_one_thread()
    from regraft_dataprep.assist import assist

    die_with(os.environ.get(child.SUPERVISOR))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=child.LOG_FORMAT)
    assist(Path(sys.stdin.read()))
    return 0


if __name__ == "__main__":
    sys.exit(_assist() if sys.argv[1:] == ["assist"] else child.run({"prepare": through(_prepare, os.environ)}))
