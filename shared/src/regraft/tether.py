"""Until when a stage process may go on: said by its supervisor, kept by the process itself.

The supervisor renews a lease and says how long it holds, in the machine's monotonic time. A supervisor that is stopped,
swapped out or cut off says nothing; when the time is over its stage process ends itself and all its kind, so that two
attempts of a stage never run at once, not even when nobody is awake to kill the first.

Both sides must share a clock, so both run on one machine. A machine that sleeps as a whole is not covered: on waking,
the process ends at its first look at the clock, some milliseconds late.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import TextIO

LOOK_SECONDS = 0.25


class Tether:
    """The supervisor's end."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        self._pipe = child.stdin.fileno()
        os.set_blocking(self._pipe, False)

    def allow(self, until: float) -> None:
        """Let the process go on until `until` (seconds of `time.monotonic`). Never blocks."""
        with suppress(BlockingIOError, BrokenPipeError):  # it does not listen, or has ended
            os.write(self._pipe, f"{until:.3f}\n".encode())


def hold(stream: TextIO) -> None:
    """The stage process's end: keep to what comes on `stream`; nothing ever came: go on for good."""
    kept = _Kept()
    for work in (lambda: kept.listen(stream), kept.watch):
        threading.Thread(target=work, name="tether", daemon=True).start()


class _Kept:
    def __init__(self) -> None:
        self._until: float | None = None

    def listen(self, stream: TextIO) -> None:
        for line in stream:
            with suppress(ValueError):
                self._until = float(line)

    def watch(self) -> None:
        while self._until is None or time.monotonic() < self._until:
            time.sleep(LOOK_SECONDS)
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
