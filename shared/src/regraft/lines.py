"""A child's lines: read without ever blocking the child, gathered, and written to the store in batches."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from regraft.jobstore import Claim, Leases, Report

Line = dict[str, Any]
Invite = Callable[[str, int], None]
"""Asks other workers to help at a work folder; so many at most."""
LAST = ("result", "error", "stopped")
ETA_WINDOW = 0.3  # weight of the newest interval in the smoothed seconds per step


class LineReader:
    """Reads a child's standard output in a thread of its own."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        self._stream = child.stdout
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._arrived = threading.Event()
        self.ended = False
        """True once the child has closed its end, as it does when it ends."""
        self.closed = False
        self._thread = threading.Thread(target=self._read, name="stage-lines", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Return when something has arrived, or after `seconds`."""
        self._arrived.wait(seconds)
        self._arrived.clear()

    def drain(self) -> list[Line]:
        """What has arrived since the last call."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get_nowait())
        return lines

    def join(self) -> None:
        """Wait until everything that the ended child wrote is read."""
        self._thread.join(timeout=10)
        self._stream.close()
        self.closed = True

    def _read(self) -> None:
        for text in self._stream:
            try:
                line = json.loads(text)
            except ValueError:
                continue  # half a line of a killed child
            if isinstance(line, dict) and "type" in line:
                self._lines.put(line)
            self._arrived.set()
        self.ended = True
        self._arrived.set()


class Relay:
    """Turns lines into a `Report` and writes it under the claim."""

    MIN_SECONDS = 0.25

    def __init__(self, leases: Leases, claim: Claim, *, invite: Invite) -> None:
        self._leases = leases
        self._claim = claim
        self._invite = invite
        self._pending = Report()
        self._written = 0.0
        self._pace = _Pace()
        self.last: Line | None = None
        self.stop_by = 0.0
        """Until when the stage has asked to be let alone while it stops, in `time.monotonic`."""

    def take(self, lines: list[Line]) -> None:
        """Add lines to the next report."""
        for line in lines:
            match line["type"]:
                case "step":
                    self._step(line)
                case "artifact":
                    self._pending.artifacts.append(line)
                case "event":
                    self._pending.events.append(line)
                case "condition":
                    self._pending.condition = {"reason": line["reason"], "message": line["message"]}
                case "stopping":
                    self.stop_by = time.monotonic() + line["seconds"]
                case "invite":
                    self._invite(line["where"], line["workers"])
                case kind if kind in LAST:
                    self.last = line

    def flush(self) -> None:
        """Write what is pending, at most every `MIN_SECONDS`; what cannot be written stays pending.

        Raises:
            FencedError: the stage is not ours any more.
        """
        if not self._pending or (self.last is None and time.monotonic() - self._written < self.MIN_SECONDS):
            return
        self._leases.report(self._claim, self._pending)
        self._pending = Report()
        self._written = time.monotonic()

    def _step(self, line: Line) -> None:
        step, total, tokens = line["step"], line["total"], line["tokens"]
        points = [
            {"name": name, "step": step, "value": value, "tokens_seen": tokens}
            for name, value in line["metrics"].items()
        ]
        self._pending.metrics.extend(points)
        self._pending.progress = {
            "step": step,
            "total_steps": total,
            "tokens_seen": tokens,
            "percent": round(100 * step / total, 1) if total else None,
            "seconds_left": self._pace.seconds_left(step, total),
            "metrics": line["metrics"],
        }


class _Pace:
    """Smoothed seconds per step."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._at = 0.0
        self._seconds: float | None = None

    def seconds_left(self, step: int, total: int | None) -> float | None:
        now = time.monotonic()
        if self._step is not None and step > self._step:
            latest = (now - self._at) / (step - self._step)
            old = self._seconds
            self._seconds = latest if old is None else ETA_WINDOW * latest + (1 - ETA_WINDOW) * old
        if self._step is None or step > self._step:
            self._step, self._at = step, now
        return None if total is None or self._seconds is None else round(self._seconds * (total - step), 1)
