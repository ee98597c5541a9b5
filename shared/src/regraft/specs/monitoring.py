"""What is watched while a run trains: scores, checkpoints and which of them stay, when to stop, spikes of the loss.

Scores are named `<set>_<score>`: `val_loss` is the loss on the job's own held-out windows, `general_loss` that on the
set which `evaluate.sets` calls `general`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from regraft.specs.base import Spec
from regraft.specs.schedule import Steps

OWN_SET = "val"
"""What the job's own held-out windows are called among the sets."""
SCORES = ("loss", "perplexity", "accuracy", "bits_per_byte")
MEASURED = frozenset(
    {
        *("tokens_per_second", "mfu", "data_wait_share", "peak_memory_bytes", "reserved_memory_bytes"),
        *("seconds_left", "checkpoint_stall_seconds", "evaluation_seconds"),
    }
)
"""Metrics of the clock and the machine, which differ from one run to the next; all others repeat bit for bit."""
_SET = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_METRIC = re.compile(rf"([a-z][a-z0-9_]*?)_({'|'.join(SCORES)})", re.ASCII)
_RESERVED = (OWN_SET, "train", "checkpoint", "eval")

Mode = Literal["min", "max"]


def set_of(metric: str) -> str:
    """The set that a score belongs to: `val` of `val_loss`."""
    match = _METRIC.fullmatch(metric)
    assert match, "checked by the specification"
    return match[1]


def is_better(value: float, than: float, *, metric: str, mode: Mode | None, by: float = 0.0) -> bool:
    """True when `value` improves on `than` by more than `by`; without a mode, accuracy is best high, the rest low."""
    high = mode == "max" or (mode is None and metric.endswith("_accuracy"))
    return value > than + by if high else value < than - by


def _is_metric(name: str) -> str:
    if not _METRIC.fullmatch(name):
        raise ValueError(f"name a set and a score, such as val_loss; the scores are {', '.join(SCORES)}")
    return name


def _is_set(name: str) -> str:
    if not _SET.fullmatch(name) or name in _RESERVED:
        raise ValueError(f"a set's name is made of a-z, 0-9 and _, and is none of {', '.join(_RESERVED)}")
    return name


ScoreName = Annotated[str, AfterValidator(_is_metric)]
SetName = Annotated[str, AfterValidator(_is_set)]
SetUri = Annotated[str, Field(min_length=1)]


class EvaluationSpec(Spec):
    """Evaluation while training."""

    every_steps: Steps | None = None
    """Score every set every so many steps, and at the last one; null: only before and after the training."""
    at_start: bool = True
    """With `every_steps`: also score the base model, as step 0, so that curves show what training changed."""
    sets: dict[SetName, SetUri] = Field(default_factory=dict, max_length=16)
    """Further sets to score beside the job's own held-out windows, by name, such as `general: file:///...`: a prepared
    dataset, whose held-out windows are read, or a folder of .h5 files."""
    max_windows: Steps | None = None
    """Score only the first so many windows of each set while training; null: all."""


class CheckpointSpec(Spec):
    """Saving while training. The last step, and the step at which a run is stopped, are saved whatever is set here."""

    every_steps: Steps = 1000
    """Save every so many steps."""
    every_minutes: float | None = Field(None, gt=0.0)
    """Also save when so many minutes have passed since the last time; null: by steps only."""
    background: bool = True
    """Write while training goes on, from a copy in host memory; false: training waits, and needs no copy."""
    keep_last: Steps = 3
    """Checkpoints kept; older ones are deleted, those of the next options excepted."""
    keep_best: ScoreName | None = None
    """Also keep the checkpoint that is best in this score, such as `val_loss` or `general_accuracy`."""
    keep_best_mode: Mode | None = None
    """Whether the lowest or the highest score is the best; null: the highest for accuracy, else the lowest."""
    keep_every: Steps | None = None
    """Also keep those whose step is a multiple of this, for ever."""
    keep_optimizer_last: Steps | None = None
    """Of the checkpoints kept, only the newest so many keep the optimiser's moments, which are two thirds of their
    size; a run cannot go on from the others. null: all do."""


class EarlyStoppingSpec(Spec):
    """End the run, successfully, once a score has stopped improving."""

    metric: ScoreName = "val_loss"
    """The score that is watched."""
    patience: Steps = 3
    """Evaluations in a row without an improvement after which the run ends."""
    min_delta: float = Field(0.0, ge=0.0)
    """What counts as an improvement is more than this."""
    mode: Mode | None = None
    """Whether a low or a high score is good; null: high for accuracy, else low."""


class LossSpikeSpec(Spec):
    """What to do about a training loss that leaps up. All of it repeats: a resumed run decides alike."""

    policy: Literal["warn", "skip", "roll_back"] = "warn"
    """`warn`: say so. `skip`: leave the weights as they are for this step. `roll_back`: take weights and moments of the
    last scheduled checkpoint, and go on with the windows that come next. The last two also bear a loss or gradient that
    is not finite."""
    threshold: float = Field(6.0, gt=0.0)
    """A spike is so many standard deviations above the mean of the recent losses."""
    window: int = Field(64, ge=2, le=4096)
    """How many losses are recent."""
    min_steps: int = Field(16, ge=2)
    """No loss is a spike before so many are known."""
    limit: Steps = 10
    """Spikes in a row after which the run fails instead of skipping or rolling back once more."""
