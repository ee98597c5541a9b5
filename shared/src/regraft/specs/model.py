"""What training changes in the model and its loss; null everywhere: what the checkpoint says."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from regraft.specs.base import Spec

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class DropoutSpec(Spec):
    """Dropout while training, in place of the rates in the checkpoint's config; evaluation has none."""

    embedding: Rate | None = None
    """Of the token embedding; null: the checkpoint's own rate."""
    attention: Rate | None = None
    """Of the attention weights; null: the checkpoint's own rate."""
    residual: Rate | None = None
    """Of what attention and feed-forward add to the residual stream; null: the checkpoint's own rate."""


class LossSpec(Spec):
    """What the summed cross entropy of a batch is divided by."""

    scaling: Literal["num_tokens", "batch_size"] = "num_tokens"
    """`num_tokens`: by the tokens that count, over the whole batch; `batch_size`: by its sequences."""
    weight: float = Field(1.0, gt=0.0)
    """Factor of the loss with `batch_size` scaling, usually 1 / max_sequence_length."""

    @model_validator(mode="after")
    def _weight_goes_with_batch_size(self) -> Self:
        if self.scaling == "num_tokens" and self.weight != 1.0:
            raise ValueError("weight goes with scaling: batch_size; a mean over tokens has none")
        return self
