"""The hardware to train on: devices of a worker's machine, or a Cerebras cluster that the worker is a client of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from regraft.specs.base import Spec

CEREBRAS = "cerebras"
TAGS = (CEREBRAS, "device")
"""What pydantic's errors put between `target` and the field they are about."""


class TargetSpec(Spec):
    """Devices of the machine that a worker runs on."""

    kind: str = Field(pattern="^[a-z][a-z0-9_]*$")
    """`cpu`, or another target that a running worker offers."""
    devices: int = Field(1, ge=1)
    """Number of devices, each with a process of its own."""
    strategy: Literal["auto", "single", "ddp", "fsdp"] = "auto"
    """`single`: one process. `ddp`: every device holds the whole model and its own part of each batch. `fsdp`: weights,
    gradients and optimiser state are divided among the devices as well. `auto`: `single` for one device, else `fsdp`.
    The results differ in the last bits only, and a checkpoint of one goes on under any other."""

    @model_validator(mode="after")
    def _one_process_has_one_device(self) -> TargetSpec:
        if self.strategy == "single" and self.devices > 1:
            raise ValueError("the strategy `single` has one device: use ddp or fsdp for more")
        return self

    @property
    def distributed(self) -> bool:
        """True when training takes a group of processes, be it a group of one."""
        return self.strategy in ("ddp", "fsdp") or self.devices > 1


class CerebrasTargetSpec(TargetSpec):
    """A Cerebras cluster, driven through the vendor's own client; the site's settings say where it is."""

    kind: Literal["cerebras"]
    """`cerebras`."""
    devices: Literal[1] = 1
    """One process of ours; systems are counted by `num_csx`."""
    strategy: Literal["auto", "single"] = "auto"
    """One process of ours."""
    release: str | None = Field(None, pattern=r"^(1\.[89]|2\.([0-9]|10))$")
    """Model Zoo release to run with, such as `"2.4"`, a text: 2.10 is not 2.1. Null: the one that the site has."""
    num_csx: int = Field(1, ge=1)
    """CS systems to train on."""
    workers: int | None = Field(None, ge=1)
    """Input workers for each system; null: the cluster's choice."""
    weight_servers: int | None = Field(None, ge=1)
    """Weight hosts; null: the cluster's choice."""
    activation_servers: int | None = Field(None, ge=1)
    """Activation hosts for each system; null: the cluster's choice."""
    priority: Literal["p1", "p2", "p3"] | None = None
    """Priority in the cluster's own queue; null: the job's."""
    time_limit_seconds: int | None = Field(None, ge=1)
    """Wall-clock limit that the cluster puts on each of its jobs; null: none."""
    preflight: Literal["none", "validate", "compile"] = "none"
    """Before the corpus is prepared, let the client check (`validate`) or compile (`compile`) the model of this job."""
    compile_dir: str | None = Field(None, min_length=1)
    """Folder of compiled programs, below the root that the cluster has for them; jobs that name the same one use each
    other's. Null: the site's."""
    fp16_type: Literal["float16", "bfloat16", "cbfloat16"] | None = None
    """16-bit type when `training.precision` is not `fp32`; `cbfloat16` is the systems' own. Null: as the precision."""
    precision_opt_level: Literal[0, 1, 2] | None = None
    """How far arithmetic may be traded for speed; null: the release's default."""
    evaluate_on: str = Field("cpu", pattern="^[a-z][a-z0-9_]*$")
    """Target of this deployment that scores the checkpoints before and after: `cpu`, `gpu`."""

    @field_validator("evaluate_on")
    @classmethod
    def _evaluates_elsewhere(cls, kind: str) -> str:
        if kind == CEREBRAS:
            raise ValueError("name a target with devices of its own, such as cpu or gpu")
        return kind


def _tag(raw: object) -> str:
    kind = raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)
    return CEREBRAS if kind == CEREBRAS else TAGS[1]


AnyTarget = Annotated[
    Annotated[CerebrasTargetSpec, Tag(TAGS[0])] | Annotated[TargetSpec, Tag(TAGS[1])], Discriminator(_tag)
]


def without_tags(location: Sequence[int | str]) -> list[int | str]:
    """The location of one of pydantic's errors without the tag that follows `target`."""
    return [part for i, part in enumerate(location) if not (i and location[i - 1] == "target" and part in TAGS)]
