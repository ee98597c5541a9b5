"""The stage process of this service: `python -m regraft_worker.stage <stage>`."""

from __future__ import annotations

import json
import os
import sys

from regraft import child, discover
from regraft.mirrored import StageFunction, mirror_of, through
from regraft.ports import Progress
from regraft.specs import (
    ConvertTask,
    EvaluateResult,
    EvaluateTask,
    ExportTask,
    PreflightTask,
    Spec,
    TrainResult,
    TrainTask,
)
from regraft.storage import local_path


def _convert(task: str, progress: Progress) -> Spec:
    from regraft_worker.conversion.convert import convert

    return convert(ConvertTask.model_validate_json(task), progress)


def _preflight(task: str, progress: Progress) -> Spec:
    from regraft_worker.launch import preflight

    return preflight(PreflightTask.model_validate_json(task), progress)


def _train_here(task: str, progress: Progress) -> Spec:
    from regraft_worker.launch import train
    from regraft_worker.trainer.restoring import restore

    asked, mirror = TrainTask.model_validate_json(task), mirror_of(os.environ)
    if mirror is not None:
        restore(local_path(asked.output_uri), mirror, progress)
    return train(asked, progress)


def _evaluate_here(task: str, progress: Progress) -> Spec:
    from regraft_worker.trainer.evaluate import evaluate

    return evaluate(EvaluateTask.model_validate_json(task), progress)


def _on_target(stage: str, here: StageFunction, result: type[Spec]) -> StageFunction:
    """Where the target is: in this process, or wherever the target's own `run_stage` takes it."""

    def run(task: str, progress: Progress) -> Spec:
        from regraft_worker.trainer.targets import PACKAGE

        asked = json.loads(task)
        module = discover.load(PACKAGE, asked["target"]["kind"], field="target.kind")
        if not hasattr(module, "run_stage"):
            return through(here, os.environ)(task, progress)
        return result.model_validate(module.run_stage(stage, asked, progress))

    return run


def _export(task: str, progress: Progress) -> Spec:
    from regraft_worker.conversion.export import export

    return export(ExportTask.model_validate_json(task), progress)


FUNCTIONS = {
    "preflight": through(_preflight, os.environ),
    "convert": through(_convert, os.environ),
    "train": _on_target("train", _train_here, TrainResult),
    "evaluate": _on_target("evaluate", _evaluate_here, EvaluateResult),
    "export": through(_export, os.environ),
}

if __name__ == "__main__":
    sys.exit(child.run(FUNCTIONS))
