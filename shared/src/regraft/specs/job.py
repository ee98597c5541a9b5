"""A job: what a user sends to `POST /jobs`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from regraft import recipes
from regraft.formats import FormatName, check_headless
from regraft.specs.base import Spec
from regraft.specs.dataset import DatasetSpec
from regraft.specs.target import AnyTarget
from regraft.specs.training import TrainingSpec

LabelKey = Annotated[str, Field(min_length=1, max_length=64)]
LabelValue = Annotated[str, Field(max_length=512)]


class BaseCheckpointSpec(Spec):
    """The model to start from."""

    uri: str = Field(min_length=1)
    """`file:///...` or a path: a Hugging Face model folder, one weight file or index with its `config.json` beside it,
    or a Cerebras `.mdl` with its YAML beside it. Family, format and encoding are detected."""


class OutputSpec(Spec):
    """What to hand over at the end."""

    formats: tuple[FormatName, ...] = ("hf",)
    """Checkpoint formats to export: `hf`, or a Cerebras release."""
    max_shard_size: str = Field("5GB", pattern="^[1-9][0-9]{0,5}(MB|GB)$")
    """Largest weight file of the `hf` export."""
    headless: bool = False
    """The `hf` export without the language-model head, as `GPTJModel` or `GPTNeoXModel`: for embeddings."""

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` as a number; units are of a thousand, as the Hub's are."""
        return int(self.max_shard_size[:-2]) * (10**9 if self.max_shard_size.endswith("GB") else 10**6)

    @field_validator("formats")
    @classmethod
    def _each_once(cls, formats: tuple[FormatName, ...]) -> tuple[FormatName, ...]:
        if not formats:
            raise ValueError("name at least one format")
        if len(set(formats)) != len(formats):
            raise ValueError("a format is named twice")
        return formats

    @model_validator(mode="after")
    def _headless_hugging_face(self) -> OutputSpec:
        check_headless(self.formats, headless=self.headless)
        return self


class JobSpec(Spec):
    """Continued pre-training of one checkpoint on one corpus. Required: `dataset`, `base_checkpoint`, `target`."""

    name: str = Field("", max_length=200)
    """A name for people; not unique."""
    recipe: str | None = None
    """Named defaults to start from; every field given here overrides the recipe's."""
    dataset: DatasetSpec
    """The corpus."""
    base_checkpoint: BaseCheckpointSpec
    """The model to start from."""
    target: AnyTarget
    """The hardware to train on."""
    training: TrainingSpec = TrainingSpec()
    """How to train."""
    output: OutputSpec = OutputSpec()
    """What to hand over."""
    priority: Literal["p1", "p2", "p3"] = "p2"
    """In every queue `p1` goes before `p2` and `p2` before `p3`."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Up to 16 pairs of the user's own, for finding jobs again."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_recipe(cls, raw: object) -> object:
        return recipes.fill(raw) if isinstance(raw, dict) and raw.get("recipe") is not None else raw
