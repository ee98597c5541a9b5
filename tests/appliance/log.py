"""The client's log: standard output and `run.log`, with the lines of each release."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

Release = tuple[int, int]
_FORMAT = "%(asctime)s %(levelname)s:   %(message)s"


class _Pieces(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes a line in two pieces that end in its middle, with a pause between: what a pipe may do to any reader."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) + "\n"
        middle = len(text) // 2
        for piece in (text[:middle], text[middle:]):
            sys.stdout.write(piece)
            sys.stdout.flush()
            time.sleep(0.01)


def open_log(model_dir: Path, *, release: Release, mode: str, split: bool) -> tuple[logging.Logger, Path]:
    """The logger of a run, and its work folder."""
    stamp = time.strftime("%Y%m%d_%H%M%S")
    logs = model_dir / "cerebras_logs"
    folder = logs / mode / stamp if release < (2, 3) else logs / stamp
    folder.mkdir(parents=True, exist_ok=True)
    file = model_dir / f"run_{stamp}.log" if release < (2, 0) else folder / "run.log"
    logger = logging.Logger("appliance", logging.INFO)
    for handler in (_Pieces() if split else logging.StreamHandler(sys.stdout), logging.FileHandler(file)):
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    return logger, folder


def step_line(
    kind: str, *, release: Release, step: int, loss: float, rates: tuple[float, float], batches: int = 1
) -> str:
    """One step, or one evaluation."""
    start = f"| {kind} Device=CSX, "
    if release < (1, 9):
        return f"{start}Step={step}, Loss={loss:.5f}, Time={time.strftime('%H:%M:%S')}"
    rate, overall = (_rate(rate, release) for rate in rates)
    if kind == "Eval" and release >= (2, 10):
        return f"{start}GlobalStep={step}, Batch={batches}, Loss={loss:.5f}, Rate={rate} samples/sec"
    line = f"{start}Step={step}, Loss={loss:.5f}, Rate={rate} samples/sec, GlobalRate={overall} samples/sec"
    return f"{line}, LoopTimeRemaining=0:00:01, TimeRemaining=0:00:01" if release >= (2, 10) else line


def done_line(kind: str, release: Release) -> str:
    """The marker of success."""
    return f"{kind} Completed Successfully!" if release < (2, 0) else f"{kind} completed successfully!"


def saving_line(step: int, release: Release) -> str:
    """Before a checkpoint is written."""
    return f"Saving checkpoint at step : {step}." if release < (2, 0) else f"Saving checkpoint at step {step}"


def _rate(rate: float, release: Release) -> str:
    return f"{rate:.3g}" if release >= (2, 10) and rate < 1 else f"{rate:.2f}"
