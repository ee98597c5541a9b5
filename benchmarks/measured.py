"""Running a program and measuring it: wall time, CPU time and memory, with everything it starts. For Linux.

Memory is the sum over all processes, with shared pages counted once (PSS), looked at ten times a second: shorter peaks
are missed. CPU time is exact: processes that outlive the program are waited for. What the machine did besides is told
too, so that a disturbed run is known for one; the looking itself is in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN_LOOKS = 0.1
_PR_SET_CHILD_SUBREAPER = 36


def run(command: list[str]) -> dict[str, Any]:
    """What the program says (JSON, its last line), with seconds `wall`, `cpu`, and `others`, and `peak` bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the program leaves behind is ours to count
    with _Peak() as peak:
        started, busy = time.perf_counter(), _busy()
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        cpu = usage.ru_utime + usage.ru_stime + sum(_left_behind())
        others = max(0.0, _busy() - busy - cpu)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return {**json.loads(said.splitlines()[-1]), "wall": wall, "cpu": cpu, "others": others, "peak": peak.bytes}


def _busy() -> float:
    """Seconds that all cores together have worked since the machine was started."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _left_behind() -> Iterator[float]:
    """CPU seconds of processes that have become ours."""
    while True:
        try:
            _, _, usage = os.wait3(0)
        except ChildProcessError:
            return
        yield usage.ru_utime + usage.ru_stime


class _Peak:
    """The most that all descendants of this process hold at a time."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            self.bytes = max(self.bytes, sum(map(_proportional_bytes, _descendants(os.getpid()))))


def _descendants(process: int) -> Iterator[int]:
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, _text(path).split()):
            yield child
            yield from _descendants(child)


def _proportional_bytes(process: int) -> int:
    lines = _text(Path(f"/proc/{process}/smaps_rollup")).splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
