"""Training in as many processes as the target asks for, as one call.

One device: the core runs here. Several: torchrun starts a process for each (`regraft_worker.rank`), and this process,
which never imports torch then, hands on what the main one says. So whoever supervises sees a single stage process: its
stop request becomes a file that the main process looks for, and the end of any process ends them all. This process is
no sign of life: it is silent for as long as the main one is, so that one who waits for the others for ever is noticed.
A target that has no devices of ours trains in its own way.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from regraft import discover
from regraft.child import SUPERVISOR
from regraft.errors import InterruptedStageError, InvalidInputError, RegraftError
from regraft.jobs import ReasonClass
from regraft.ports import NullProgress, Progress
from regraft.specs import PreflightResult, PreflightTask, TrainResult, TrainTask
from regraft_worker.trainer.targets import target_for

TARGETS = "regraft_worker.trainer.targets"
TASK, STOP = "task.json", "stop"
"""Files of the folder that the processes share."""
_POLL_SECONDS = 0.2
_LAST = ("result", "error", "stopped")


class RankError(RegraftError):
    """What ended the processes, in the words of the one that said it."""

    def __init__(self, line: dict[str, Any]) -> None:
        super().__init__(
            line["message"],
            field=line.get("field") or "",
            value=line.get("value"),
            remedy=line.get("remedy") or "",
            reason=line["reason"],
        )
        self.reason_class = ReasonClass(line["reason_class"])  # type: ignore[misc]

    def __str__(self) -> str:
        return self.message  # has been put together already


@dataclass(frozen=True, kw_only=True)
class Place:
    """This machine among those that train together; each has as many processes."""

    nodes: int = 1
    node: int = 0
    """Which one this is; the processes of the first lead."""
    host: str = ""
    """Name of the first one."""
    port: int = 0
    """Where it waits for the others."""


ALONE = Place()


def train(task: TrainTask, progress: Progress | None = None, *, place: Place = ALONE) -> TrainResult:
    """As `regraft_worker.trainer.loop.train`, whatever the target; on the first machine, where there are several.

    Raises:
        RegraftError: as there; or `process_died` when one of several processes ended without a word.
    """
    progress = progress or NullProgress()
    module = discover.load(TARGETS, task.target.kind, field="target.kind")
    if not hasattr(module, "Target"):
        return cast(TrainResult, module.train(task, progress))
    if task.target.distributed:
        target_for(task.target)  # devices that are not there are said before processes are started
        return _ended(*_in_processes(task, progress, place))
    from regraft_worker.trainer.loop import train as train_here

    return train_here(task, progress)


def preflight(task: PreflightTask, progress: Progress | None = None) -> PreflightResult:
    """Let the target's own tools look at a job.

    Raises:
        InvalidInputError: the target has none.
    """
    module = discover.load(TARGETS, task.target.kind, field="target.kind")
    if not hasattr(module, "preflight"):
        raise InvalidInputError(
            "this target has no tools of its own to check a job with", field="target.kind", value=task.target.kind
        )
    return cast(PreflightResult, module.preflight(task, progress or NullProgress()))


def join(task: TrainTask, progress: Progress, place: Place) -> None:
    """The part of a machine that is not the first one, until all have ended.

    Raises:
        RegraftError: as `train`.
    """
    last, code = _in_processes(task, progress, place)
    if code or last is not None:
        _ended(last, code)


def _in_processes(task: TrainTask, progress: Progress, place: Place) -> tuple[dict[str, Any] | None, int]:
    """The last word that a process of this machine said, and the exit status of them all."""
    with tempfile.TemporaryDirectory(prefix="regraft-ranks-") as name:
        folder = Path(name)
        (folder / TASK).write_text(task.model_dump_json(by_alias=True), encoding="utf-8")
        child = _start(folder, task.target.devices, place)
        try:
            last = _relay(child, progress, stop=(folder / STOP).touch)
            code = child.wait()
        finally:
            child.kill()  # the processes die with it
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
    return last, code


def _start(folder: Path, processes: int, place: Place) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "regraft_worker.torchrun", str(processes), str(folder)]
    if place.nodes > 1:
        command += [str(place.nodes), str(place.node), place.host, str(place.port)]
    environment = {**os.environ, SUPERVISOR: str(os.getpid())}
    # Python's own stdout is the pipe: torchrun lets its processes inherit it.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)


def _relay(child: subprocess.Popen[bytes], progress: Progress, *, stop: Callable[[], None]) -> dict[str, Any] | None:
    """Hand lines on until all processes have closed the pipe; returns the last word, if there was one."""
    last: dict[str, Any] | None = None
    for text in _lines(child, when_idle=lambda: stop() if progress.is_asked_to_stop() else None):
        line = json.loads(text)
        kind = line.pop("type")
        if kind in _LAST:
            last = last or {"type": kind, **line}  # the first one: others follow from it
        else:
            say(progress, kind, line)
    return last


def say(progress: Progress, kind: str, line: dict[str, Any]) -> None:
    """Hand on a line of another process."""
    match kind:
        case "step":
            progress.step(line["step"], line["metrics"], total=line["total"], tokens=line["tokens"])
        case "artifact":
            progress.artifact(line["kind"], line["uri"], line["metadata"])
        case "event":
            progress.event(line["message"], level=line["level"], data=line["data"])
        case "alive":
            progress.should_stop()  # asking says it on


def _lines(child: subprocess.Popen[bytes], *, when_idle: Callable[[], None]) -> Iterator[bytes]:
    """Whole lines as they come; `when_idle` is called several times a second."""
    assert child.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ)
        while True:
            when_idle()
            if not ready.select(_POLL_SECONDS):
                continue
            chunk = os.read(child.stdout.fileno(), 2**16)
            if not chunk:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole


def _ended(last: dict[str, Any] | None, code: int) -> TrainResult:
    if last is not None and last["type"] == "error":
        raise RankError(last)
    if last is not None and last["type"] == "stopped":
        raise InterruptedStageError("stopped; calling again goes on from there")
    if last is None or code:
        raise ProcessDiedError(code)
    return TrainResult.model_validate(last["result"])


class ProcessDiedError(RegraftError):
    """One of the processes ended without a word; which one and how is in the log of torchrun."""

    reason = "process_died"
    reason_class = ReasonClass.INFRASTRUCTURE

    def __init__(self, code: int) -> None:
        super().__init__(
            "one of the training processes died, and the others were ended",
            value=code,
            remedy="The log says which and of what signal; the run goes on from its newest checkpoint.",
        )
