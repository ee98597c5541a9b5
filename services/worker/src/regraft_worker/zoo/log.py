"""Log lines as the Model Zoo's runs write them, on standard output and in the log file of the release's layout.

Parsers of those lines are the reader; their shape is fixed by release and never ours to improve.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import InvalidInputError

_FORMAT = "%(asctime)s %(levelname)s:   %(message)s"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@contextmanager
def run_log(model_dir: Path, *, era: str, mode: str, stamp: str, level: str, params: str) -> Iterator[logging.Logger]:
    """A logger for one run that began at `stamp`, and the run's copy of its params file.

    Raises:
        InvalidInputError: no such level, or the folder cannot be written to.
    """
    if level.upper() not in _LEVELS:
        raise InvalidInputError("no such level", field="--logging", value=level, remedy=f"Use {', '.join(_LEVELS)}.")
    try:
        file = _log_file(model_dir, era=era, mode=mode, stamp=stamp)
        copy = model_dir / mode / f"params_{mode}.yaml"
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(params, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            f"cannot be written to ({error.strerror})", field="--model_dir", value=str(model_dir)
        ) from error
    logger = logging.Logger("regraft.run", level.upper())
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(file, encoding="utf-8")]
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    try:
        yield logger
    finally:
        handlers[1].close()


def _log_file(model_dir: Path, *, era: str, mode: str, stamp: str) -> Path:
    model_dir.mkdir(parents=True, exist_ok=True)
    if era == "1.8":
        return model_dir / f"run_{stamp}.log"
    logs = model_dir / "cerebras_logs"
    folder = logs / mode / stamp if era == "2.0" else logs / stamp
    folder.mkdir(parents=True, exist_ok=True)
    if era == "2.0":
        _link(logs / "latest", folder)
        _link(logs / "latest_run.log", folder / "run.log")
    return folder / "run.log"


def _link(link: Path, target: Path) -> None:
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target.relative_to(link.parent))


def step_line(
    kind: str, *, era: str, device: str, step: int, loss: float, rates: tuple[float, float], batches: int = 1
) -> str:
    """The line of a step (`Train`), or of an evaluation (`Eval`) of so many batches."""
    start = f"| {kind} Device={device}, "
    if era == "1.8":
        return f"{start}Step={step}, Loss={loss:.5f}, Time={time.strftime('%H:%M:%S')}"
    if kind == "Eval" and era == "2.10":
        return f"{start}GlobalStep={step}, Batch={batches}, Loss={loss:.5f}, Rate={_rate(rates[0], era)} samples/sec"
    both = f"Rate={_rate(rates[0], era)} samples/sec, GlobalRate={_rate(rates[1], era)} samples/sec"
    return f"{start}Step={step}, Loss={loss:.5f}, {both}"


def score_lines(scores: dict[str, float], *, era: str) -> list[str]:
    """What is said at the end of an evaluation; `scores` has loss, perplexity and accuracy."""
    metrics = {"eval/accuracy": scores["accuracy"], "eval/lm_perplexity": scores["perplexity"]}
    if era == "1.8":
        return [f"Avg Eval. Loss = {scores['loss']}", f"Avg eval_metrics = {metrics}"]
    return [f"Avg Eval Loss: {scores['loss']}", *(f"Metric: {name} = {value}" for name, value in metrics.items())]


def saving_line(step: int, *, era: str) -> str:
    """Before a checkpoint is written."""
    return f"Saving checkpoint at step : {step}." if era == "1.8" else f"Saving checkpoint at step {step}"


def done_line(kind: str, *, era: str) -> str:
    """The marker of success; `kind` is `Training` or `Evaluation`."""
    return f"{kind} Completed Successfully!" if era == "1.8" else f"{kind} completed successfully!"


def _rate(rate: float, era: str) -> str:
    return f"{rate:.3g}" if era == "2.10" and rate < 1 else f"{rate:.2f}"
