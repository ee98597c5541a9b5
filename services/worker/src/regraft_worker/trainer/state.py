"""`training_state/state.json`: where a run stands and what made it; all that is not a tensor.

Random states are not in it: every step seeds the generators from (seed, step). Whatever decides about the steps to come
is (recent losses, patience, the best score), so that a run which goes on decides as if it had never stopped.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from regraft.specs import Spec, TargetSpec, TrainingSpec
from regraft.specs.monitoring import OWN_SET
from regraft_worker.trainer.ledger import Ledger


class DataPosition(Spec):
    """How far the windows are read; these two keys are those of the reference tools' checkpoints."""

    samples_streamed: int
    """Over all datasets and devices, from the start of the run."""
    seed: int
    """Of the order; another one would read other windows from here on."""


class DatasetRead(Spec):
    """What one dataset is, wherever it lies: its address, or where it has no manifest, a digest of what files say."""

    address: str | None = None
    files: str | None = None
    """Of their names, sizes, numbers of windows and types."""


class Best(Spec):
    """The best checkpoint so far."""

    metric: str
    value: float
    step: int


class Watched(Spec):
    """How early stopping stands."""

    best: float
    waited: int = 0
    """Evaluations since the best one."""


class Spikes(Spec):
    """How the watch for spikes stands."""

    losses: tuple[float, ...] = ()
    """The recent ones, oldest first."""
    in_a_row: int = 0


class TrainingState(Spec):
    """Where a run stands, and what made it."""

    format_version: Literal[3] = 3
    step: int = 0
    """Finished optimiser steps; also the position of the schedule."""
    dataloader: DataPosition
    """Position in the order of the windows."""
    tokens_seen: int = 0
    """Tokens counted in the loss so far."""
    train_loss: float | None = None
    """Of the last step."""
    scores: dict[str, float] = Field(default_factory=dict)
    """At this very step; empty when nothing was scored."""
    baseline: dict[str, float] = Field(default_factory=dict)
    """Scores of the base model; empty when it was not scored."""
    best: Best | None = None
    watched: Watched | None = None
    spikes: Spikes = Spikes()
    without_effect: tuple[tuple[int, int], ...] = ()
    """First and last step of each stretch whose windows did not change the weights: skipped, or rolled back."""
    stopped_early: str | None = None
    """Why the run ended before its last step."""
    scalars: dict[str, float | int] = Field(default_factory=dict)
    """Of the snapshot: `updates` and others that the optimiser needs."""
    training: TrainingSpec
    target: TargetSpec
    max_steps: int
    dataset: str | None
    """Address of the dataset; null when it has no manifest."""
    dataset_windows: int
    dataset_files: str | None = None
    """Without a manifest: a digest of the dataset's files, as in `DatasetRead`."""
    mixture: tuple[DatasetRead, ...] = ()
    """The further datasets, in the order of `training.mixture`."""
    ledger: Ledger | None = None
    """Which samples were read; null in checkpoints of earlier versions."""
    base: str | None
    """Address of the checkpoint the run started from; null when it has no manifest."""
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_versions(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("format_version") == 1:
            data = _from_version_1(data)
        if isinstance(data, dict) and data.get("format_version") == 2:
            data = _from_version_2(data)
        return data

    def updates(self) -> int:
        """Updates that the optimiser has made: one a step, but for those without effect."""
        return int(self.scalars.get("updates", self.step))

    def summary(self) -> dict[str, object]:
        """For the manifest and the job's record."""
        found = {"step": self.step, "tokens_seen": self.tokens_seen, "train_loss": self.train_loss, "format": "hf"}
        return {**found, **self.scores}


def _from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """It knew one dataset, and the position as `windows_read`; the seed was, and is, in `training`."""
    position = {"samples_streamed": data.get("windows_read"), "seed": data.get("training", {}).get("seed")}
    kept = {name: value for name, value in data.items() if name != "windows_read"}
    return {**kept, "format_version": 2, "dataloader": position}


def _from_version_2(data: dict[str, Any]) -> dict[str, Any]:
    """It knew one score, the loss on the job's own held-out windows."""
    gone = ("val_loss", "best_step", "best_val_loss")
    kept = {name: value for name, value in data.items() if name not in gone}
    loss, step, best = (data.get(name) for name in gone)
    metric = f"{OWN_SET}_loss"
    if loss is not None:
        kept["scores"] = {metric: loss}
    if step is not None and best is not None:
        kept["best"] = {"metric": metric, "value": best, "step": step}
    return {**kept, "format_version": 3}
