"""The stage process of this service: `python -m regraft_worker.stage <stage>`."""

from __future__ import annotations

import os
import sys

from regraft import child
from regraft.mirrored import mirror_of
from regraft.ports import Progress
from regraft.specs import ConvertTask, EvaluateTask, ExportTask, PreflightTask, Spec, TrainTask
from regraft.storage import local_path


def _convert(task: str, progress: Progress) -> Spec:
    from regraft_worker.conversion.convert import convert

    return convert(ConvertTask.model_validate_json(task), progress)


def _preflight(task: str, progress: Progress) -> Spec:
    from regraft_worker.launch import preflight

    return preflight(PreflightTask.model_validate_json(task), progress)


def _train(task: str, progress: Progress) -> Spec:
    from regraft_worker.launch import train
    from regraft_worker.trainer.restoring import restore

    asked, mirror = TrainTask.model_validate_json(task), mirror_of(os.environ)
    if mirror is not None:
        restore(local_path(asked.output_uri), mirror, progress)
    return train(asked, progress)


def _evaluate(task: str, progress: Progress) -> Spec:
    from regraft_worker.trainer.evaluate import evaluate

    return evaluate(EvaluateTask.model_validate_json(task), progress)


def _export(task: str, progress: Progress) -> Spec:
    from regraft_worker.conversion.export import export

    return export(ExportTask.model_validate_json(task), progress)


if __name__ == "__main__":
    before = {"preflight": _preflight, "convert": _convert}
    sys.exit(child.run({**before, "train": _train, "evaluate": _evaluate, "export": _export}))
