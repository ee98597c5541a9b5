"""What a plan says: the answer of `POST /jobs/plan` and of `regraft plan`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from regraft.specs.base import Spec


class StagePlan(Spec):
    """What is expected of one stage."""

    name: str
    queue: str
    """Where it will wait for a worker."""
    expected: Literal["cached", "run", "unknown"]
    """`cached`: a result of the same options and unchanged inputs is published. `unknown`: whether one is there shows
    when the stage has hashed its inputs."""
    why: str
    uri: str | None = None
    """The published result."""


class MemoryPlan(Spec):
    """Bytes on one device; the parts are not all there at once, `peak` is the most that is."""

    weights: int
    working_copies: int
    """Of weights, in the precision that matrices are multiplied in, and what sharded training gathers."""
    gradients: int
    optimizer: int
    """Moments."""
    activations: int
    logits: int
    """Of a chunk of the loss, with gradients."""
    update: int
    """Temporaries of the optimiser's step."""
    overhead: int
    """Of the process and its libraries."""
    peak: int
    available: int | None
    """What the device has; null: not known."""


class TimePlan(Spec):
    """Training alone: no evaluation, saving or start-up."""

    tokens_per_second: float
    """Over all devices."""
    step_seconds: float
    seconds: float | None
    """Of all steps; null: their number is not known."""
    seconds_low: float | None
    seconds_high: float | None
    basis: str
    """What the rate rests on: finished runs of similar shape, or the calibration table."""


class RemedyPlan(Spec):
    """Settings that would make the job fit."""

    changes: dict[str, str | int | None]
    """Field of the job to its value."""
    micro_batch_size: int
    """The largest that then fits."""


class TargetPlan(Spec):
    """The job on one kind of hardware."""

    kind: str
    device: str
    """Name of the hardware as far as it is known."""
    devices: int
    strategy: str
    asked: bool
    """True for the job's own target."""
    fits: bool | None
    """Null: the memory of the device is not known."""
    micro_batch_size: int | None
    """Sequences at a time on a device: as asked, or the largest that fits; null: none does."""
    memory: MemoryPlan
    host_snapshot_bytes: int
    """Main memory that a checkpoint takes while it is being written, beside training."""
    time: TimePlan | None
    """Null: nothing is known of this hardware's speed at this precision."""
    remedies: tuple[RemedyPlan, ...] = ()


class DiskPlan(Spec):
    """Bytes in the artifact storage."""

    base_checkpoint: int
    checkpoints: int
    exports: int
    dataset: int | None
    """Before compression; null: the size of the corpus is not known."""
    total: int
    """Of what is known."""


class WorkPlan(Spec):
    """How much there is to train."""

    parameters: int
    flops_per_token: float
    steps: int | None
    """Null: one pass over windows whose number is not known yet."""
    tokens: int | None
    """Positions of all windows read, padding included."""
    epochs: float | None
    windows: int | None
    """Training windows of the corpus."""
    windows_from: Literal["dataset", "estimate", "unknown"]
    """`dataset`: of the published one. `estimate`: from the size of the corpus, at four bytes a token."""


class Plan(Spec):
    """What would happen to a job."""

    object: Literal["job.plan"] = "job.plan"
    plan_hash: str
    """Of the resolved spec and of what the inputs look like; give it to `POST /jobs` to create this job or none."""
    spec: dict[str, Any]
    """With every default filled in."""
    stages: tuple[StagePlan, ...]
    work: WorkPlan | None
    """Null, like the estimates: the model is not known before the convert stage has read it."""
    targets: tuple[TargetPlan, ...]
    """The job's own first."""
    disk: DiskPlan | None
    warnings: tuple[str, ...] = Field(default=())
