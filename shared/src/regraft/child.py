"""The stage process: runs one computing core and tells its supervisor about it, one JSON object a line.

The supervisor starts `python -m <service>.stage <stage>` with the task as the first line on standard input. Lines go to
what was standard output; the core's own prints are turned over to standard error, which is the log. SIGTERM means: save
and stop; SIGUSR1, sent only to stages that cannot save at any moment: stop when you have saved next; SIGUSR2: save and
stop, for the worker leaves. The process dies with its supervisor. Further lines on standard input say until when it may
go on (see `tether`): one whose supervisor sleeps through a lease ends itself before another can start in its place.

Line types: `step`, `artifact`, `event`, `invite`, `condition`, `stopping`, `alive`, and last one of `result`, `error`,
`stopped`. No such last line: it crashed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from regraft.errors import InterruptedStageError, RegraftError
from regraft.jobs import ReasonClass
from regraft.mirrored import StageFunction
from regraft.ports import Level
from regraft.processes import die_with
from regraft.tether import hold

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SUPERVISOR = "REGRAFT_SUPERVISOR_PID"
"""Environment variable with the process id that the stage process dies with."""
LEAVE = signal.SIGUSR2
"""Sent instead of SIGTERM when only the worker leaves: what a stage has started on other machines may go on."""
ALIVE_SECONDS = 5.0
OUT_OF_MEMORY_WORDS = ("CUDA out of memory", "out of memory", "can't allocate memory")


class LineProgress:
    """A `Progress` that writes lines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._leave = False
        self._patient = False
        self._said = 0.0

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        self.write("step", step=step, metrics=dict(metrics), total=total, tokens=tokens)

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        self.write("artifact", kind=kind, uri=uri, metadata=dict(metadata))

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        self.write("event", message=message, level=level, data=None if data is None else dict(data))

    def invite(self, where: str, *, workers: int) -> None:
        self.write("invite", where=where, workers=workers)

    def is_kept(self, folder: Path) -> bool:
        return False

    def should_stop(self) -> bool:
        # Who asks has come round its loop: that is progress, also where there is no figure to report.
        if time.monotonic() - self._said > ALIVE_SECONDS:
            self.write("alive")
        return self.is_asked_to_stop()

    def is_asked_to_stop(self) -> bool:
        return self._stop.is_set()

    def may_leave(self) -> bool:
        return self._leave

    def condition(self, reason: str, message: str) -> None:
        self.write("condition", reason=reason, message=message)

    def postpone_stop(self, seconds: float) -> bool:
        if self._patient:
            self.write("stopping", seconds=seconds)
        return self._patient

    def stop(self, *, patient: bool = False, leave: bool = False) -> None:
        """Called by the signal handler; `patient`: the next regular save may be waited for; `leave`: see `LEAVE`."""
        self._patient, self._leave = patient, leave
        self._stop.set()

    def write(self, type_: str, **fields: Any) -> None:
        """One line, out at once."""
        with self._lock:
            self._said = time.monotonic()
            self._out.write(json.dumps({"type": type_, **fields}) + "\n")
            self._out.flush()


def run(functions: Mapping[str, StageFunction]) -> int:
    """The whole life of a stage process; returns its exit status."""
    die_with(os.environ.get(SUPERVISOR))
    out = take_stdout()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=LOG_FORMAT)
    progress = LineProgress(out)
    signal.signal(signal.SIGTERM, lambda *_: progress.stop())
    signal.signal(LEAVE, lambda *_: progress.stop(leave=True))
    signal.signal(signal.SIGUSR1, lambda *_: progress.stop(patient=True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the supervisor decides
    task = sys.stdin.readline()
    hold(sys.stdin)
    return call(functions[sys.argv[1]], task, progress)


def call(function: StageFunction, task: str, progress: LineProgress) -> int:
    """Run a core and write its last line; returns the exit status."""
    try:
        result = function(task, progress)
    except InterruptedStageError:
        progress.write("stopped")
        return 0
    except RegraftError as error:
        progress.write("error", **error_fields(error))
        return 1
    except MemoryError:
        return _out_of_memory(progress, "not enough memory for this stage")
    except RuntimeError as error:
        # torch.OutOfMemoryError is one, and so is what its allocator of host memory raises; torch is not imported here.
        if type(error).__name__ != "OutOfMemoryError" and not any(words in str(error) for words in OUT_OF_MEMORY_WORDS):
            raise
        return _out_of_memory(progress, str(error).splitlines()[0])
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"no space left on the device: {error.filename or 'storage'}"
        progress.write("error", reason="disk_full", reason_class=ReasonClass.CAPACITY, message=message)
        return 1
    progress.write("result", result=result.model_dump(mode="json"))
    return 0


def _out_of_memory(progress: LineProgress, message: str) -> int:
    progress.write("error", reason="out_of_memory", reason_class=ReasonClass.CAPACITY, message=message)
    return 1


def error_fields(error: RegraftError) -> dict[str, Any]:
    """What is kept of an error: never a traceback."""
    value = error.value if isinstance(error.value, str | int | float | bool | None) else repr(error.value)
    return {
        "reason": error.reason,
        "reason_class": error.reason_class,
        "message": str(error),
        "field": error.field,
        "value": value,
        "remedy": error.remedy,
    }


def take_stdout() -> TextIO:
    """Keep standard output for lines; whatever else prints goes to standard error."""
    sys.stdout.flush()
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines
