"""Checkpoints written while training goes on: one at a time, tried again when it fails, never in the way.

A thread writes. That is enough: hashing, copying and writing large blocks all release the interpreter's lock. At most
one write is under way; who wants to start the next one waits for it first, so that memory holds one copy at most.

A write that fails is tried again from the same copy (a sync that failed may lie when it is repeated: files are written
anew). When every try has failed the copy is let go and training goes on; the checkpoint before is still there, and the
next one is due at its time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from regraft.errors import RegraftError
from regraft_worker.trainer.state import TrainingState

WAITS = (1.0, 5.0)
"""Seconds before the second and the third try; cut short when somebody waits."""

Expected = (OSError, RegraftError)
"""What a write may fail of: the disk, or reading back something else. All else is a fault of ours."""


@dataclass
class Written:
    """What became of one checkpoint."""

    state: TrainingState
    folder: Path | None = None
    """Where it is; None: it could not be written."""
    deleted: list[Path] = field(default_factory=list)
    """By retention, after it."""
    failures: list[str] = field(default_factory=list)
    """Of each try that failed."""
    error: OSError | RegraftError | None = None
    """The last one, when it could not be written."""
    seconds: float = 0.0


class CheckpointWriter:
    """Writes one checkpoint after the other; `in_background` or before `start` returns."""

    def __init__(self, *, in_background: bool) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if in_background else None
        self._running: Future[Written] | None = None
        self._done: list[Written] = []
        self._hurry = threading.Event()

    def start(
        self, state: TrainingState, write: Callable[[TrainingState], Path], prune: Callable[[TrainingState], list[Path]]
    ) -> None:
        """Begin to write; `prune` follows once it is written."""
        self.wait()
        self._hurry.clear()
        if self._pool is None:
            self._hurry.set()  # training waits for it
            self._done.append(self._write(state, write, prune))
            return
        self._running = self._pool.submit(self._write, state, write, prune)

    def wait(self) -> None:
        """Until nothing is under way."""
        if self._running is not None:
            self._hurry.set()
            self._done.append(self._running.result())
            self._running = None

    def take(self) -> list[Written]:
        """What has been finished since the last call, in order."""
        if self._running is not None and self._running.done():
            self.wait()
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """No thread is left."""
        if self._pool is not None:
            self._pool.shutdown()

    def _write(
        self, state: TrainingState, write: Callable[[TrainingState], Path], prune: Callable[[TrainingState], list[Path]]
    ) -> Written:
        began, written = time.monotonic(), Written(state)
        for wait in (0.0, *WAITS):
            self._hurry.wait(wait)
            try:
                written.folder = write(state)
                written.error = None
                break
            except Expected as error:
                written.error = error
                written.failures.append(str(error))
        if written.folder is not None:
            self._prune(written, prune)
        written.seconds = time.monotonic() - began
        return written

    def _prune(self, written: Written, prune: Callable[[TrainingState], list[Path]]) -> None:
        try:
            written.deleted = prune(written.state)
        except OSError as error:
            # The checkpoint is there, which is what counts; the next prune deletes what this one could not.
            written.failures.append(f"older checkpoints cannot be deleted: {error}")
