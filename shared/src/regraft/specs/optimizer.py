"""How gradients change weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from regraft.specs.base import Spec


class OptimizerSpec(Spec):
    """AdamW; the three kinds differ in the order of the update and in how the moments are held."""

    name: Literal["adamw", "adamw_torch", "adamw_8bit"] = "adamw"
    """`adamw`: the order of Cerebras and the first Hugging Face AdamW, eps added before bias correction.
    `adamw_torch`: the order of `torch.optim.AdamW`, eps after it.
    `adamw_8bit`: torch's order with both moments in 8 bits, by torchao: 2 bytes per parameter instead of 8."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: float = Field(1.0e-6, gt=0.0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0.0)
    """Decoupled decay; biases and norms are left out, embeddings are not."""
    correct_bias: bool = True
    """Divide by the moments' start-up bias."""
    powers: Literal["exact", "fp32"] = "exact"
    """How the powers of the betas in that bias are computed; `fp32`: multiplied up step by step in single precision, as
    Cerebras does, which a run needs to repeat its losses to the last digits."""
    max_gradient_norm: float | None = Field(1.0, gt=0.0)
    """Global L2 norm at which gradients are clipped; null switches clipping off."""
    max_gradient_value: float | None = Field(None, gt=0.0)
    """Instead of the norm: every element of the gradients is clamped to plus and minus this."""

    @model_validator(mode="after")
    def _one_way_to_clip(self) -> OptimizerSpec:
        if self.max_gradient_value is not None and self.max_gradient_norm is not None:
            raise ValueError("max_gradient_value takes the place of max_gradient_norm: set max_gradient_norm to null")
        if self.name != "adamw" and not self.correct_bias:
            raise ValueError(f"{self.name} always corrects the bias: leave correct_bias true, or use adamw")
        if self.powers == "fp32" and max(self.betas) >= 1 - 2**-25:
            raise ValueError("in single precision this beta is 1, and its powers correct nothing: make powers exact")
        return self
