"""Live progress of a job on a terminal or in a log: a line when something changes, at most one a second."""

from __future__ import annotations

import time
from typing import Any, TextIO

UNITS = {
    "prepare": "documents",
    "convert": "tensors",
    "train": "steps",
    "evaluate": "batches",
    "export": "tensors",
}
SHOWN_METRICS = {"train_loss": "loss", "val_loss": "val loss"}


class Watcher:
    """Prints what is new about a job each time it is shown one."""

    MIN_SECONDS = 1.0

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._status: dict[str, str] = {}
        self._line: dict[str, str] = {}
        self._printed: dict[str, float] = {}
        self._reason: dict[str, str] = {}

    def show(self, job: dict[str, Any]) -> None:
        """Print the changes since the last call."""
        for stage in job["stages"]:
            self._show_stage(stage)
        if self._status.get("") != job["status"]:
            self._status[""] = job["status"]
            self._print(f"job {job['status']}" + (f": {job['message']}" if job["message"] else ""))

    def _show_stage(self, stage: dict[str, Any]) -> None:
        name, status = stage["name"], stage["status"]
        progress = progress_line(stage)
        if status == "running" and progress and progress != self._line.get(name):
            # The last step is always worth a line, even within the second.
            if time.monotonic() - self._printed.get(name, 0.0) < self.MIN_SECONDS and not _is_last(stage):
                return
            self._line[name], self._printed[name] = progress, time.monotonic()
            self._print(f"{name:8} {progress}")
        if status == "running" and stage.get("reason") and stage["reason"] != self._reason.get(name):
            self._reason[name] = stage["reason"]
            self._print(f"{name:8} {stage['reason']}: {stage['message']}")
        if status != self._status.get(name):
            self._status[name] = status
            if status not in ("pending", "ready"):
                self._print(f"{name:8} {_status_text(stage)}")

    def _print(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def _is_last(stage: dict[str, Any]) -> bool:
    progress = stage["progress"]
    return bool(progress["step"] == progress["total_steps"])


def _status_text(stage: dict[str, Any]) -> str:
    status = stage["status"]
    if status == "cached":
        return "cached: made by an earlier job, used again"
    if status == "running" and len(stage["attempts"]) > 1:
        return f"running (attempt {len(stage['attempts'])})"
    return f"{status}: {stage['message']}" if stage["message"] else str(status)


def progress_line(stage: dict[str, Any]) -> str:
    """`40/300 steps  20,480 tokens  loss 5.1234  12 s left`; empty before the first report."""
    progress = stage["progress"]
    if not progress:
        return ""
    total = f"/{progress['total_steps']:,}" if progress["total_steps"] else ""
    parts = [f"{progress['step']:,}{total} {UNITS[stage['name']]}"]
    if progress["tokens_seen"]:
        parts.append(f"{progress['tokens_seen']:,} tokens")
    for key, label in SHOWN_METRICS.items():
        if key in progress["metrics"]:
            parts.append(f"{label} {progress['metrics'][key]:.4f}")
    if progress["seconds_left"] is not None:
        parts.append(f"{format_duration(progress['seconds_left'])} left")
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `5 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
