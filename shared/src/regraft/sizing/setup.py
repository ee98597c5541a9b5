"""The options of a training run that decide about memory and time, apart from the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from regraft.specs import JobSpec, TargetSpec, TrainingSpec

Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "adamw_torch", "adamw_8bit"]
Checkpointing = Literal["none", "selective", "full"]
Strategy = Literal["single", "ddp", "fsdp"]

FIELDS: Mapping[str, str] = {
    "batch_size": "training.batch_size",
    "length": "dataset.max_sequence_length",
    "micro_batch": "training.micro_batch_size",
    "precision": "training.precision",
    "optimizer": "training.optimizer.name",
    "checkpointing": "training.activation_checkpointing",
    "strategy": "target.strategy",
    "devices": "target.devices",
}
"""Where each option stands in a job."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is trained on how many devices, and how."""

    batch_size: int
    """Sequences in an optimiser step, over all devices."""
    length: int
    """Tokens in a sequence."""
    micro_batch: int | None = None
    """Sequences a device holds at a time; null: what fits."""
    precision: Precision = "fp32"
    optimizer: Optimizer = "adamw"
    checkpointing: Checkpointing = "none"
    strategy: Strategy = "single"
    devices: int = 1
    dropout: bool = False
    """Masks of dropout are kept for the backward pass."""

    def with_(self, **changes: Any) -> Setup:
        """The same with other options."""
        return replace(self, **changes)

    @property
    def per_device(self) -> int:
        """Sequences of an optimiser step that one device reads."""
        return -(-self.batch_size // self.devices)

    def accumulates(self, micro_batch: int) -> bool:
        """True when an optimiser step takes several passes, so that gradients are there while activations are."""
        return micro_batch < self.per_device


def setup_of(training: TrainingSpec, target: TargetSpec, *, length: int, dropout: bool) -> Setup:
    """The options of a run whose windows have `length` tokens."""
    asked, where = training.model_dump(), target.model_dump()
    strategy = where.get("strategy", "auto")
    if strategy == "auto":
        # Sharding costs some speed and never fits less, so it is what many devices do unless they are told otherwise.
        strategy = "fsdp" if target.devices > 1 else "single"
    return Setup(
        batch_size=training.batch_size,
        length=length,
        micro_batch=asked.get("micro_batch_size"),
        precision=training.precision,
        optimizer=training.optimizer.name,
        checkpointing=asked.get("activation_checkpointing", "none"),
        strategy=strategy,
        devices=target.devices,
        dropout=dropout,
    )


def setup_of_job(spec: JobSpec, *, dropout: bool = False) -> Setup:
    """The options of a job's training; `dropout`: its base checkpoint's config asks for some."""
    return setup_of(
        spec.training,
        spec.target,
        length=spec.training.max_sequence_length or spec.dataset.max_sequence_length,
        dropout=dropout,
    )
