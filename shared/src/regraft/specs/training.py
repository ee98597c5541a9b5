"""How to train: what is read, optimiser, schedule, and when to evaluate and save."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from regraft.specs.base import Spec
from regraft.specs.model import DropoutSpec, LossSpec
from regraft.specs.monitoring import OWN_SET, CheckpointSpec, EarlyStoppingSpec, EvaluationSpec, LossSpikeSpec, set_of
from regraft.specs.optimizer import OptimizerSpec
from regraft.specs.presets import SchedulePreset, expand
from regraft.specs.schedule import SchedulePart, Steps, length_of

_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)\s*", re.ASCII)


def subset_ranges(text: str) -> tuple[tuple[Fraction, Fraction], ...]:
    """`0.1-0.3,0.7-1.0` as (start, end) pairs, exact as written: 0.29 of 100 windows are 29.

    Raises:
        ValueError: not of this form, outside of 0 to 1, empty, or not in order.
    """
    matches = [_RANGE.fullmatch(part) for part in text.split(",")]
    ranges = tuple((Fraction(match[1]), Fraction(match[2])) for match in matches if match)
    if len(ranges) < len(matches):
        raise ValueError("write ranges of fractions such as 0.0-0.5 or 0.1-0.3,0.7-1.0")
    if any(end > 1 for _, end in ranges):
        raise ValueError("a range ends at 1.0 at the latest")
    if any(start >= end for start, end in ranges):
        raise ValueError("a range ends after its start")
    if any(start < end for (_, end), (start, _) in pairwise(ranges)):
        raise ValueError("ranges come in order and do not overlap")
    return ranges


def _is_subset(text: str) -> str:
    subset_ranges(text)
    return text


DataSubset = Annotated[str, AfterValidator(_is_subset)]
Weight = Annotated[float, Field(gt=0.0)]


class MixturePart(Spec):
    """A further dataset that windows are read from."""

    uri: str = Field(min_length=1)
    """A prepared dataset, whose train split is read, or a folder of .h5 files of the reference tools."""
    weight: Weight
    """Its part of the windows, in relation to the other weights and to `dataset_weight`."""
    data_subset: DataSubset | None = None
    """Ranges of its windows as fractions, such as `0.1-0.3,0.7-1.0`; null: all."""


class TrainingSpec(Spec):
    """The training run."""

    batch_size: int = Field(8, ge=1)
    """Sequences in one optimiser step, over all devices."""
    max_steps: Steps | None = None
    """Optimiser steps; null: one pass over the job's own training windows."""
    seed: int = Field(1, ge=0, lt=2**63)
    """Seed of the sample order and of dropout."""
    shuffle: bool = True
    """Read the windows in a random order, a new one each epoch."""
    data_subset: DataSubset | None = None
    """Ranges of the training windows as fractions, such as `0.1-0.3,0.7-1.0`; null: all."""
    mixture: tuple[MixturePart, ...] = ()
    """Further datasets to mix in, each by its weight; one that runs out starts over. The held-out windows stay those of
    the job's own dataset."""
    dataset_weight: Weight = 1.0
    """Weight of the job's own dataset in the mixture."""
    max_sequence_length: int | None = Field(None, ge=2, le=1_048_576)
    """Length of the windows that files of plain token streams are cut into; null: the files hold windows."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """`bf16`: forward and backward in bfloat16 where it is safe, weights and optimiser in fp32. `fp16`: the same in
    float16, with dynamic loss scaling; for GPUs without bfloat16."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Sequences that one device takes at a time; a step accumulates as many times as it takes. Null: as many as are
    estimated to fit the device's memory. Changes the last bits of the results only."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Compute activations again in the backward pass instead of keeping them: of every second block, or of all."""
    compile: bool = False
    """Compile the blocks with torch.compile: a minute at the start, faster steps; for GPUs."""
    learning_rate: float = Field(6.0e-6, gt=0.0)
    """Peak rate of the default schedule; has no effect when `schedule` is given."""
    dropout: DropoutSpec = DropoutSpec()
    """Dropout rates other than the checkpoint's."""
    loss: LossSpec = LossSpec()
    """How the loss is scaled."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimiser."""
    schedule: tuple[SchedulePart, ...] | None = None
    """Parts one after the other, each counted from its own start, or a preset, which is replaced by its parts:
    `{preset: rewarm_redecay, peak: 6.0e-6}`. Default: warm up over the first 1 % of the steps to `learning_rate`, then
    a cosine to a tenth of it."""
    evaluate: EvaluationSpec = EvaluationSpec()
    """Periodic evaluation."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Periodic saving."""
    early_stopping: EarlyStoppingSpec | None = None
    """End when a score stops improving; null: never."""
    loss_spike: LossSpikeSpec | None = None
    """Watch for leaps of the training loss; null: only a loss that is not finite ends the run."""
    log_every_steps: Steps = 10
    """Report metrics every so many steps."""
    tensorboard: bool = True
    """Write TensorBoard event files into the run's folder."""

    @model_validator(mode="before")
    @classmethod
    def _expand_the_preset(cls, raw: object) -> object:
        if not isinstance(raw, dict) or not isinstance(raw.get("schedule"), dict):
            return raw
        steps = raw.get("max_steps")
        preset = SchedulePreset.model_validate(raw["schedule"])
        return {**raw, "schedule": expand(preset, max_steps=steps if isinstance(steps, int) else None)}

    @field_validator("schedule")
    @classmethod
    def _only_the_last_part_is_endless(cls, parts: tuple[SchedulePart, ...] | None) -> tuple[SchedulePart, ...] | None:
        if parts is not None and not parts:
            raise ValueError("a schedule needs at least one part")
        for part in (parts or ())[:-1]:
            if length_of(part) is None:
                raise ValueError("only the last part of a schedule may leave out its steps")
        return parts

    @model_validator(mode="after")
    def _scores_that_decide_are_made(self) -> TrainingSpec:
        decisive = {"checkpoint.keep_best": self.checkpoint.keep_best}
        if self.early_stopping is not None:
            decisive["early_stopping.metric"] = self.early_stopping.metric
        for field, metric in decisive.items():
            if metric is not None and set_of(metric) not in (OWN_SET, *self.evaluate.sets):
                raise ValueError(f"{field}: '{metric}' is a score of a set that is not among evaluate.sets")
        if self.early_stopping is not None and self.evaluate.every_steps is None:
            raise ValueError("early_stopping needs evaluate.every_steps")
        return self
