"""What runs in a pod of a stage's Job: `python -m regraft_worker.kubernetes.pod`.

The same cores as anywhere; where several pods train together, torchrun joins their processes at the first pod. The
first one says on standard output what a stage process says, each line marked; others only what made them fail.
SIGTERM, which comes with the deletion of the Job, means: save and stop.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO, cast

from regraft import child
from regraft.mirrored import StageFunction, mirror_of, through
from regraft.ports import NullProgress, Progress
from regraft.specs import EvaluateTask, Spec, TrainTask
from regraft.storage import local_path
from regraft_worker.kubernetes.output import MARK
from regraft_worker.launch import Place, join, train

CACHE = "/tmp/regraft"  # noqa: S108  # in the pod; a template may mount a volume and say where
_STOPPED = 143  # as of SIGTERM


class _Marked:
    """A stream whose lines bear the mark."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        return self._out.write(MARK + text)

    def flush(self) -> None:
        self._out.flush()


class _PodProgress(child.LineProgress):
    """The first pod says everything, others only what made them fail."""

    def __init__(self, out: TextIO, *, first: bool) -> None:
        super().__init__(out)
        self._first = first
        self.last = ""

    def write(self, type_: str, **fields: object) -> None:
        self.last = type_
        if self._first or type_ == "error":
            super().write(type_, **fields)


class _Done(Spec):
    """What a pod that is not the first hands back."""


def main(environment: Mapping[str, str]) -> int:
    """Run the stage; returns the exit status."""
    out = cast(TextIO, _Marked(child.take_stdout()))
    place = Place(
        nodes=int(environment["REGRAFT_NODES"]),
        node=int(environment.get("JOB_COMPLETION_INDEX", "0")),
        host=environment["REGRAFT_MASTER"],
        port=int(environment["REGRAFT_MASTER_PORT"]),
    )
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"[{place.node}] {child.LOG_FORMAT}")
    progress = _PodProgress(out, first=place.node == 0)
    signal.signal(signal.SIGTERM, lambda *_: progress.stop())
    function = {"train": _trainer(place), "evaluate": _evaluate}[environment["REGRAFT_STAGE"]]
    Path(environment["REGRAFT_CACHE_FOLDER"]).mkdir(parents=True, exist_ok=True)
    status = child.call(through(function, environment), environment["REGRAFT_TASK"], progress)
    # A pod that was stopped must not count as one that has done its part: a Job that is suspended would go on without.
    stopped = progress.last == "stopped" or (place.node > 0 and progress.should_stop())
    return _STOPPED if status == 0 and stopped else status


def _trainer(place: Place) -> StageFunction:
    def run(task: str, progress: Progress) -> Spec:
        from regraft_worker.trainer.restoring import restore

        asked, mirror = TrainTask.model_validate_json(task), mirror_of(os.environ)
        if mirror is not None:
            restore(local_path(asked.output_uri), mirror, progress)
        if place.node == 0:
            return train(asked, progress, place=place)
        join(asked, NullProgress(), place)  # whether to stop, the first pod says
        return _Done()

    return run


def _evaluate(task: str, progress: Progress) -> Spec:
    from regraft_worker.trainer.evaluate import evaluate

    return evaluate(EvaluateTask.model_validate_json(task), progress)


if __name__ == "__main__":
    os.environ.setdefault("REGRAFT_CACHE_FOLDER", CACHE)
    os.environ.setdefault("REGRAFT_CACHE_BYTES", "0")
    sys.exit(main(os.environ))
