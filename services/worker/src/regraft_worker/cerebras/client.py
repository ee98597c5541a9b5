"""The vendor's client as a child process.

It must live as long as the run: the cluster ends a job whose client is silent for some seconds. So it dies with this
process, and this process with its supervisor; a run that lost its client is over, whoever lost it. It is a process
group of its own, because SIGINT is its word for "stop" and must reach all of it and nobody else. It is never asked
anything: standard input is empty.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_CHUNK = 2**16
_OF_SHELL = 128
"""What a shell that starts the client adds to the number of the signal that killed it."""


class Client:
    """A client that runs. `output` is read by a thread, so that it never waits for us."""

    def __init__(self, words: Sequence[str], *, folder: Path) -> None:
        held = [sys.executable, "-P", "-m", "regraft_worker.cerebras.held", str(os.getpid()), *words]
        self._child = subprocess.Popen(
            held,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="client-output", daemon=True)
        self._thread.start()

    def output(self, seconds: float) -> bytes:
        """What it has said since the last call; waits for so long when that is nothing."""
        try:
            found = self._chunks.get(timeout=seconds)
        except queue.Empty:
            return b""
        while not self._chunks.empty():
            found += self._chunks.get_nowait()
        return found

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._child.poll()

    def interrupt(self) -> None:
        """Ask it to stop, as Ctrl-C would."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End it and all of its group; safe to call again."""
        self._signal(signal.SIGKILL)
        self._child.wait()

    def close(self) -> bytes:
        """End it, and return what it said last."""
        self.kill()
        self._thread.join(timeout=10)
        assert self._child.stdout is not None
        self._child.stdout.close()
        return self.output(0)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)

    def _read(self) -> None:
        assert self._child.stdout is not None
        with suppress(ValueError, OSError):  # closed under our hands
            while chunk := os.read(self._child.stdout.fileno(), _CHUNK):
                self._chunks.put(chunk)


def killed_by(status: int) -> int | None:
    """Number of the signal that an exit status tells of, the client's own or that of a shell around it."""
    number = -status if status < 0 else status - _OF_SHELL
    return number if 0 < number < signal.NSIG else None
