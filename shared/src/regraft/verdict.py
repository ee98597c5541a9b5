"""What the end of a stage process means: its last word, its exit status, its log and the memory controller."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from regraft.jobs import ReasonClass
from regraft.jobstore import Outcome, Wanted

MEMORY_WORDS = (
    "CUDA out of memory",
    "OutOfMemoryError",
    "MemoryError",
    "can't allocate memory",
    "std::bad_alloc",
    "Cannot allocate memory",
)
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # by itself, and as a shell or launcher passes it on


def stopped(wanted: Wanted, *, drained: bool) -> Outcome:
    """It was asked to stop, and did."""
    if drained:
        return Outcome(status="released", reason="worker_drained", message="the worker is leaving")
    if wanted is Wanted.PAUSE:
        return Outcome(status="released", reason="paused", message="the job is being paused")
    reason = "cancelled" if wanted is Wanted.CANCEL else "not_needed"
    return Outcome(status="cancelled", reason=reason, reason_class=ReasonClass.USER_REQUEST)


def finished(result: dict[str, Any]) -> Outcome:
    """It handed its result back."""
    return Outcome(status="cached" if result.get("cached") else "succeeded", result=result)


def refused(line: Mapping[str, Any]) -> Outcome:
    """It said what is wrong."""
    detail = {key: line[key] for key in ("field", "value", "remedy") if line.get(key)}
    return Outcome(
        status="failed",
        reason=line["reason"],
        reason_class=ReasonClass(line["reason_class"]),
        message=line["message"],
        detail=detail or None,
    )


def hung(seconds: float, log: Path) -> Outcome:
    """It reported nothing for too long and was killed."""
    message = f"the stage process reported no progress for {seconds:.0f} s and was killed; its log is {log}"
    return Outcome(status="failed", reason="no_progress", reason_class=ReasonClass.INFRASTRUCTURE, message=message)


def crashed(code: int, log: Path, *, tail: str, oom_killed: bool) -> Outcome:
    """No last word: killed from outside, or a fault of ours whose traceback is in the log."""
    failed = Outcome(status="failed", reason_class=ReasonClass.INFRASTRUCTURE)
    if (code in KILLED and oom_killed) or any(words in tail for words in MEMORY_WORDS):
        message = f"not enough memory for this stage; its log is {log}"
        return replace(failed, reason="out_of_memory", reason_class=ReasonClass.CAPACITY, message=message)
    if code in KILLED:
        reason, what = "killed", "was killed"
    elif code < 0:
        reason, what = "crashed", f"died of signal {-code}"
    else:
        reason, what = "crashed", f"ended with status {code} without a word"
    return replace(failed, reason=reason, message=f"the stage process {what}; its log is {log}")


def not_started(error: Exception) -> Outcome:
    """The process could not even be started: no processes or descriptors left, no folder, a result that is missing."""
    message = f"the stage process could not be started: {type(error).__name__}: {error}"
    return Outcome(status="failed", reason="start_failed", reason_class=ReasonClass.INFRASTRUCTURE, message=message)
