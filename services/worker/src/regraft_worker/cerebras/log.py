"""What the vendor's client says on its output, as things that happened.

The lines of every release from 1.8 to 2.10 are read by one parser. Output comes in pieces that end anywhere, and a
record may be broken by another process' line end; what is cut off is waited for, and never read as a smaller number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from regraft_worker.cerebras.states import Failure, failure_in

_RECORD = re.compile(
    r"\|\s*(?P<kind>Train|Eval) Device=(?P<device>[^,]+), (?P<key>Step|GlobalStep)=(?P<step>\d+),.*?"
    r"\bLoss=(?P<loss>[^,\s]+),(?:.*?\bRate=(?P<rate>[^,\s]+) samples/sec)?"
)
_BEGUN = re.compile(r"\|\s*(?:Train|Eval) Device=")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_JOB = re.compile(r"wsjob-[a-z0-9]+")
_FLOW = re.compile(r"wflow-[a-z0-9]+")
_STARTS = re.compile(r"Initiating a new (compile|execute) wsjob")
_SAVED = re.compile(r"Saved checkpoint (?P<path>\S+)|Saving checkpoint at step\s*:?\s*(?P<step>\d+)")
_SCORE = re.compile(r"Metric: eval/(?P<name>\w+) = (?P<value>\S+)|Avg Eval\.? Loss\s*[:=]\s*(?P<loss>\S+)")
_OLD_SCORES = re.compile(r"Avg eval_metrics = \{(?P<pairs>[^}]*)\}")
_PAIR = re.compile(r"'eval/(\w+)': ([^,\s]+)")
_DONE = re.compile(r"Training completed successfully!", re.IGNORECASE)
_LONGEST = 1 << 16
"""Characters of one line that are kept; the client writes no longer ones that mean anything."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A line of progress."""

    kind: Literal["Train", "Eval"]
    step: int | None
    """Of the run; null where the line counts batches instead, as evaluations before release 2.10 do."""
    loss: float
    rate: float | None
    """Samples per second."""


@dataclass(frozen=True)
class Score:
    """A figure at the end of an evaluation."""

    name: str
    """`loss`, `lm_perplexity`, `accuracy`."""
    value: float


@dataclass(frozen=True, kw_only=True)
class ApplianceJob:
    """The cluster has taken a job."""

    job: str
    workflow: str | None
    mode: Literal["compile", "execute"] | None


@dataclass(frozen=True)
class Saved:
    """A checkpoint is being or was written."""


@dataclass(frozen=True)
class Done:
    """The client's own word that training is complete."""


Happened = Step | Score | ApplianceJob | Saved | Done | Failure


class LogReader:
    """Takes output as it comes; remembers what a line that is still to come may need."""

    def __init__(self) -> None:
        self._rest = b""
        self._broken = ""
        self._mode: Literal["compile", "execute"] | None = None
        self.last_line = ""
        """The newest line with anything in it."""

    def feed(self, chunk: bytes) -> Iterator[Happened]:
        """What the lines that are complete now say."""
        *whole, self._rest = re.split(rb"[\r\n]", self._rest + chunk)
        self._rest = self._rest[-_LONGEST:]
        for line in whole:
            yield from self._line(_ANSI.sub("", line[:_LONGEST].decode("utf-8", errors="replace")))

    def finish(self) -> Iterator[Happened]:
        """The client has ended: its last line may lack an end."""
        yield from self.feed(b"\n")

    def _line(self, text: str) -> Iterator[Happened]:
        if not text.strip():
            return
        self.last_line = text.strip()
        if not _STAMP.match(text) and self._broken and (whole := _record(self._broken + text)):
            self._broken = ""
            yield whole
            return
        self._broken = ""
        if not _BEGUN.search(text):
            yield from self._other(text)
        elif found := _record(text):
            yield found
        else:
            self._broken = text

    def _other(self, text: str) -> Iterator[Happened]:
        if starts := _STARTS.search(text):
            self._mode = "compile" if starts[1] == "compile" else "execute"
        if "Job id:" in text and (job := _JOB.search(text)):
            flow = _FLOW.search(text)
            yield ApplianceJob(job=job[0], workflow=flow[0] if flow else None, mode=self._mode)
        if _SAVED.search(text):
            yield Saved()
        if _DONE.search(text):
            yield Done()
        yield from _scores(text)
        if failure := failure_in(text):
            yield failure


def _record(text: str) -> Step | None:
    found = _RECORD.search(text)
    loss = None if found is None else _number(found["loss"])
    if found is None or loss is None:
        return None
    counts_batches = found["kind"] == "Eval" and found["key"] == "Step"
    return Step(
        kind="Train" if found["kind"] == "Train" else "Eval",
        step=None if counts_batches else int(found["step"]),
        loss=loss,
        rate=_number(found["rate"]) if found["rate"] else None,
    )


def _scores(text: str) -> Iterator[Score]:
    if found := _SCORE.search(text):
        value = _number(found["value"] or found["loss"])
        if value is not None:
            yield Score(found["name"] or "loss", value)
    elif old := _OLD_SCORES.search(text):
        for name, written in _PAIR.findall(old["pairs"]):
            if (value := _number(written)) is not None:
                yield Score(name, value)


def _number(text: str) -> float | None:
    """Also `nan` and `inf`; None for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan if text.lower() in ("-nan", "+nan") else None
