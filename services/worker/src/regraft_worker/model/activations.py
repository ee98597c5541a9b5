"""Activation functions by the names that Hugging Face and the Cerebras Model Zoo give them.

Several names mean one function: `gelu_fast` and `gelu_pytorch_tanh` are `gelu_new` up to the rounding of a constant,
`swish` is `silu`. Functions with weights of their own (`prelu`) and gated ones (`swiglu`, which has a third matrix) are
no plain function of one tensor and are not here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft.errors import InvalidInputError

Activation = Callable[[Tensor], Tensor]

_tanh_gelu = partial(F.gelu, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid form of GELU: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2."""
    return F.relu(x).square()


def unchanged(x: Tensor) -> Tensor:
    """x."""
    return x


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_accurate": _tanh_gelu,
    "gelu_python_tanh": _tanh_gelu,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "linear": unchanged,
}


def activation(name: str) -> Activation:
    """The activation called `name`.

    Raises:
        InvalidInputError: it is none of those the decoder has.
    """
    if name not in ACTIVATIONS:
        raise InvalidInputError(
            "unknown activation", field="activation", value=name, remedy=f"Use one of: {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]
