"""How gradients change weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from regraft.specs.base import Spec


class OptimizerSpec(Spec):
    """AdamW in the order Cerebras and the first Hugging Face AdamW use: eps is added before bias correction."""

    name: Literal["adamw"] = "adamw"
    """The optimiser."""
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
