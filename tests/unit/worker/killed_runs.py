"""One run that is killed over and over, each time somewhere else, and called again: a program, so that torch is loaded
once and every child is a fork of it.

python killed_runs.py <folder with base/, dataset/ and general/> <output folder> <log file> <seed> <kills>

A child of kill (phase, n) ends itself by SIGKILL at the n-th function call that any thread makes within that phase: in
a step, in the writing of a checkpoint, in an evaluation. What it reports goes to the log before.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_runs
from tiny_runs import Recorder, task

from regraft.specs import TrainTask
from regraft_worker.trainer import checkpoint, loop, run
from regraft_worker.trainer.step import TrainStep

PHASES = ("step", "save", "evaluation")
OPTIONS = {
    "max_steps": 32,
    "evaluate": {"every_steps": 5, "sets": {}},
    "checkpoint": {"every_steps": 2, "keep_last": 2, "keep_best": "val_loss"},
    "loss_spike": {"policy": "roll_back", "threshold": 1.0, "min_steps": 4, "window": 8},
    "early_stopping": {"metric": "general_loss", "patience": 50},
}


def asked(folder: Path, output: Path) -> TrainTask:
    """The run."""
    sets = {"general": str(folder / "general")}
    return task(folder, output, **{**OPTIONS, "evaluate": {**OPTIONS["evaluate"], "sets": sets}})


class Doom:
    """Counts function calls in one phase, and kills its process at one of them."""

    def __init__(self, phase: str, calls: int) -> None:
        self._phase, self._left = phase, calls

    def inside(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched if it is the phase."""
        if phase != self._phase:
            return function

        def call(*args: Any, **options: Any) -> Any:
            sys.setprofile(self._count)
            try:
                return function(*args, **options)
            finally:
                sys.setprofile(None)

        return call

    def _count(self, frame: object, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class _Logged(Recorder):
    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def step(self, *args: Any, **options: Any) -> None:
        before = len(self.steps)
        super().step(*args, **options)
        with self._log.open("a") as file:
            file.writelines(json.dumps(step) + "\n" for step in self.steps[before:])


def _child(folder: Path, output: Path, log: Path, doom: Doom | None) -> None:
    if doom is not None:
        TrainStep.__call__ = doom.inside("step", TrainStep.__call__)  # type: ignore[method-assign]
        checkpoint.write = doom.inside("save", checkpoint.write)
        run.score = doom.inside("evaluation", run.score)
    loop.train(asked(folder, output), _Logged(log))


def _forked(work: Callable[[], None]) -> int:
    """Exit status of a child that does it, -9 when it was killed."""
    assert threading.active_count() == 1, "a fork takes only one thread along"
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _main(folder: str, output: str, log: str, seed: str, kills: str) -> None:
    generator = random.Random(int(seed))
    most = {"step": 4000, "save": 5000, "evaluation": 1200}
    killed = []
    while len(killed) < int(kills):
        phase = PHASES[len(killed) % 3]
        doom = Doom(phase, generator.randrange(1, most[phase]))
        status = _forked(lambda doom=doom: _child(Path(folder), Path(output), Path(log), doom))
        assert status in (0, -signal.SIGKILL), status
        if status == 0:
            break  # it came to its end before its doom
        killed.append(phase)
    status = _forked(lambda: _child(Path(folder), Path(output), Path(log), None))
    print(json.dumps({"killed": killed, "last": status}))


if __name__ == "__main__":
    assert tiny_runs
    _main(*sys.argv[1:])
