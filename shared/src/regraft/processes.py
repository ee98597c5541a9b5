"""Child processes that end with their parent, so that nothing is left behind when it is killed.

The kernel's parent-death signal is tied to the thread that started the child. A single-threaded parent asks for it
between fork and exec (`end_with_parent`); a parent with threads must run no Python there, so its child asks for itself
(`die_with`).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGTERM) -> Callable[[], None]:
    """For `preexec_fn` of a single-threaded parent: the child gets `number` when the parent is gone."""
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork

    def request() -> None:
        prctl(PR_SET_PDEATHSIG, number)

    return request


def die_with(parent: str | None) -> None:
    """Called by a child: be killed when `parent` (a process id) dies, at once if it is dead already."""
    if parent is None:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)


def environments() -> Iterator[tuple[int, list[bytes]]]:
    """Process id and environment of every process that this user may look at."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended, or is another user's
                yield int(entry.name), (entry / "environ").read_bytes().split(b"\0")


def kill_marked(*marks: str) -> int:
    """SIGKILL for every process with all these `NAME=value` in its environment; returns how many.

    Children inherit the environment, also those that left their process group (launchers start sessions).
    """
    wanted = {mark.encode() for mark in marks}
    found = [pid for pid, values in environments() if wanted <= set(values) and pid != os.getpid()]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def kill_of(prefix: str, *, mark: str) -> int:
    """SIGKILL for every process marked `mark` with a `NAME=value` in its environment that begins so; how many."""
    count = 0
    for pid, values in environments():
        if mark.encode() in values and any(value.startswith(prefix.encode()) for value in values):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                count += 1
    return count


def is_gone(pid: int) -> bool:
    """True when no such process runs; one that has ended and was not yet waited for counts as gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def kill_orphans(variable: str, *, mark: str) -> int:
    """SIGKILL for processes marked `mark` whose `variable` names a process that is gone; returns how many."""
    count = 0
    for pid, values in environments():
        owners = [value.partition(b"=")[2] for value in values if value.startswith(variable.encode() + b"=")]
        if owners and mark.encode() in values and is_gone(int(owners[0])):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                count += 1
    return count
