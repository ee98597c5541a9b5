"""Several linear layers of one input as one step of autograd: cast once, one gradient of the input, no copies kept.

Under autocast, separate `nn.Linear` layers convert their common input once each, keep a converted copy of every weight
until the backward pass, and sum the gradients of the input in passes of their own. Here the input is converted once,
weights are converted again when they are needed (a millionth of the work of the product), and gradients of the input
are added up inside the matrix products. What a layer computes is `nn.Linear`'s, and the modules stay what they were:
separate weights under separate names, so nothing needs merging or splitting on its way to a checkpoint.

The weights saved for the backward pass are the parameters themselves, never copies, so that sharded training can let go
of a layer's weights between its forward and its backward pass.

Shapes: N rows, I and O the width of input and output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """`layer(x)` for each layer: (..., I) to one (..., O) each, in autocast's precision where it is on."""
    if not isinstance(layers[0], nn.Linear):
        return tuple(layer(x) for layer in layers)  # of a kind that computes without holding its weights
    weights = [layer.weight for layer in layers]
    outputs: tuple[Tensor, ...] = _Project.apply(x, len(layers), *weights, *(layer.bias for layer in layers))  # type: ignore[no-untyped-call]
    return outputs


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of `x` run in: autocast's choice where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Project(torch.autograd.Function):
    """x (..., I), then weights (O, I), then as many biases (O,) or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        dtype = compute_dtype(x)
        weights, biases = parameters[:count], parameters[count:]
        rows = x.to(dtype)
        ctx.save_for_backward(rows, *weights)
        ctx.input_dtype = x.dtype
        ctx.biased = [bias is not None for bias in biases]
        with torch.autocast(x.device.type, enabled=False):
            return tuple(
                F.linear(rows, _cast(weight, dtype), None if bias is None else _cast(bias, dtype))
                for weight, bias in zip(weights, biases, strict=True)
            )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, *weights = ctx.saved_tensors
        rows = saved.flatten(0, -2)  # (N, I)
        d_rows: Tensor | None = None
        d_weights, d_biases = [], []
        for gradient, weight, biased in zip(gradients, weights, ctx.biased, strict=True):
            d = gradient.to(rows.dtype).reshape(-1, gradient.shape[-1])  # (N, O)
            w = weight.to(rows.dtype)
            d_rows = d @ w if d_rows is None else d_rows.addmm_(d, w)
            d_weights.append((d.t() @ rows).to(weight.dtype))
            d_biases.append(d.sum(0, dtype=torch.float32).to(weight.dtype) if biased else None)
        assert d_rows is not None, "there is a layer"
        return d_rows.view(saved.shape).to(ctx.input_dtype), None, *d_weights, *d_biases


def _cast(parameter: Tensor | None, dtype: torch.dtype) -> Tensor:
    assert parameter is not None, "every layer has a weight"
    return parameter.to(dtype)
