"""Where metrics go besides the progress port: TensorBoard's files, and Weights & Biases or MLflow when asked for.

TensorBoard gets each metric under the tags people know: `train/loss`, `val/loss`, `general/perplexity`, and beside them
those of the Cerebras Model Zoo: `loss`, `lr/0` and `lr/1` (of the parameters that are decayed, and of the others),
`local_samples_per_sec`, `avg_samples_per_sec`, `avg_steps_per_sec`, `eval/loss`, `eval/lm_perplexity`, `eval/accuracy`.

The other two are used when their own environment variables ask for them, and are no dependencies of this project:

    WANDB_PROJECT          Weights & Biases; all its variables apply (WANDB_MODE=offline, WANDB_API_KEY, ...)
    MLFLOW_TRACKING_URI    MLflow; all its variables apply (MLFLOW_EXPERIMENT_NAME, ...)

A run that is continued goes on in the same run there: its id is made from the run's folder, or kept in it. None of
them ends a training: what fails is told once and tried again later (`guard`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from regraft.errors import InvalidInputError
from regraft.specs.monitoring import SCORES
from regraft_worker.trainer.event_file import EventFile
from regraft_worker.trainer.guard import Guard

FOLDER = "tensorboard"
_MLFLOW_ID = "mlflow_run_id"

_TAGS = {
    "train_loss": ("train/loss", "loss"),
    "train_lr": ("train/lr", "lr/0", "lr/1"),
    "train_grad_norm": ("train/grad_norm",),
    "val_loss": ("val/loss", "eval/loss"),
    "val_perplexity": ("val/perplexity", "eval/lm_perplexity"),
    "val_accuracy": ("val/accuracy", "eval/accuracy"),
    "train_loss_scale": ("train/loss_scale", "loss_scale"),
    "train_skipped_steps": ("train/skipped_steps",),
    "evaluation_seconds": ("val/seconds",),
    **{name: (name,) for name in ("local_samples_per_sec", "avg_samples_per_sec", "avg_steps_per_sec")},
}


class Tracker(Protocol):
    """Something that is told metrics."""

    failures: tuple[type[Exception], ...]
    """What its calls may fail of."""

    def log(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Metrics of a step, by this project's names, and the tokens seen until then."""

    def close(self) -> None:
        """Nothing more comes."""


class Trackers:
    """Those of a run, none of which can end it."""

    def __init__(self, found: list[Tracker], warn: Callable[[str], None]) -> None:
        """`warn` is told of the first failure of each."""
        self._found = [(one, Guard(type(one).__name__, warn, failures=one.failures)) for one in found]

    def log(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Tell all of them."""
        for tracker, guard in self._found:
            guard(partial(tracker.log, step, metrics, tokens))

    def close(self) -> None:
        """Nothing more comes."""
        for tracker, guard in self._found:
            guard(tracker.close)


def trackers_for(
    run: Path, *, known_by: Path, options: Mapping[str, Any], tensorboard: bool, first_step: int
) -> list[Tracker]:
    """What this run and its environment ask for; `known_by` is the folder that makes or keeps a run's id elsewhere.

    Raises:
        InvalidInputError: a package that the environment asks for is not installed.
    """
    found: list[Tracker] = []
    if tensorboard:
        found.append(TensorBoard(run / FOLDER, first_step=first_step))
    if os.environ.get("WANDB_PROJECT"):
        found.append(WandB(known_by, options))
    if os.environ.get("MLFLOW_TRACKING_URI"):
        found.append(MLflow(known_by, options))
    return found


def tags(metric: str) -> tuple[str, ...]:
    """What TensorBoard calls a metric."""
    for score in SCORES:
        if metric not in _TAGS and metric.endswith(f"_{score}"):
            return (f"{metric.removesuffix(f'_{score}')}/{score}",)
    return _TAGS.get(metric, (f"train/{metric}",))


class TensorBoard:
    """Event files in a folder of the run."""

    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._file = EventFile(folder, first_step=first_step)

    def log(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        named = {tag: value for name, value in metrics.items() for tag in tags(name)}
        self._file.scalars(step, {**named, "train/tokens": float(tokens)})

    def close(self) -> None:
        return


class WandB:
    """Weights & Biases; the run there begins with the first metrics."""

    # The network's, the server's, its own: the package promises none.
    failures: tuple[type[Exception], ...] = (Exception,)

    def __init__(self, run: Path, options: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb", "WANDB_PROJECT") from error
        self._wandb, self._folder, self._options = wandb, run, dict(options)
        self._run: Any = None

    def log(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        if self._run is None:
            name = hashlib.sha256(str(self._folder).encode()).hexdigest()[:16]
            self._run = self._wandb.init(id=name, resume="allow", config=self._options, dir=str(self._folder))
        self._run.log({**metrics, "tokens_seen": tokens}, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class MLflow:
    """MLflow; the run there begins with the first metrics."""

    failures: tuple[type[Exception], ...] = (Exception,)  # as above

    def __init__(self, run: Path, options: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise _missing("mlflow", "MLFLOW_TRACKING_URI") from error
        self._mlflow, self._folder, self._options = mlflow, run, options
        self._begun = False

    def log(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        if not self._begun:
            self._begin()
        self._mlflow.log_metrics({**metrics, "tokens_seen": float(tokens)}, step=step)

    def close(self) -> None:
        if self._begun:
            self._mlflow.end_run()

    def _begin(self) -> None:
        kept = self._folder / _MLFLOW_ID
        if kept.is_file():
            self._mlflow.start_run(run_id=kept.read_text(encoding="utf-8"))
            self._begun = True
            return
        started = self._mlflow.start_run(run_name=self._folder.name)
        self._begun = True
        self._folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(started.info.run_id, encoding="utf-8")
        self._mlflow.log_params({name: str(value)[:500] for name, value in self._options.items()})


def _missing(package: str, variable: str) -> InvalidInputError:
    return InvalidInputError(
        f"{variable} asks for {package}, which is not installed",
        field=variable,
        value=os.environ[variable],
        remedy=f"Install it (pip install {package}), or unset the variable.",
    )
