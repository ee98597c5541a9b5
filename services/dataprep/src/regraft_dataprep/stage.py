"""The stage process of this service: `python -m regraft_dataprep.stage prepare`."""

from __future__ import annotations

import sys

from regraft import child
from regraft.ports import Progress
from regraft.specs import PrepareTask, Spec


def _prepare(task: str, progress: Progress) -> Spec:
    from regraft_dataprep.pipeline import prepare

    return prepare(PrepareTask.model_validate_json(task), progress)


if __name__ == "__main__":
    sys.exit(child.run({"prepare": _prepare}))
