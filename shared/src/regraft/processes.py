"""Child processes that end with their parent, so that nothing is left behind when it is killed.

The kernel's parent-death signal is tied to the thread that started the child. A single-threaded parent asks for it
between fork and exec (`end_with_parent`); a parent with threads must run no Python there, so its child asks for itself
(`die_with`).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

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
