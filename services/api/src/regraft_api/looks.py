"""A look at something that may hang, for whoever asks often: seldom taken, soon answered, one at a time.

A network file system that has lost its server blocks whoever touches it, beyond the reach of any time limit. So the
look is taken in a thread of its own, and as long as one hangs no second one is begun.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from regraft.errors import RegraftError

REMEMBER_SECONDS = 5.0
LIMIT_SECONDS = 2.0
OK = "ok"
TIMEOUT = "timeout"


class Look:
    """`look` raises OSError or RegraftError when something is wrong. From any thread."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._began = 0.0
        self._found: Future[str] | None = None

    def state(self) -> str:
        """`ok`, `timeout`, or in one word what is wrong; up to `REMEMBER_SECONDS` old."""
        with self._lock:
            now = time.monotonic()
            if self._found is None or (self._found.done() and now - self._began > REMEMBER_SECONDS):
                self._began, self._found = now, Future()
                threading.Thread(target=self._run, args=(self._found,), name="look", daemon=True).start()
            found, left = self._found, max(0.0, self._began + LIMIT_SECONDS - now)
        try:
            return found.result(left)
        except TimeoutError:
            return TIMEOUT

    def _run(self, found: Future[str]) -> None:
        state = "failed"
        try:
            self._look()
            state = OK
        except RegraftError as error:
            state = error.reason
        except OSError as error:
            state = type(error).__name__
        finally:
            found.set_result(state)
