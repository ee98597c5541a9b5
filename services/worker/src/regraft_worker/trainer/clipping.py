"""The gradients' global norm, and clipping by it or by value.

Sharded gradients count as one: each process adds the squares of its shards, the sum is everybody's. A norm of the own
shard would clip every process differently and too little.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regraft.specs import OptimizerSpec
from regraft_worker.trainer.shards import is_sharded, local
from regraft_worker.trainer.world import World


def clip(model: nn.Module, spec: OptimizerSpec, *, world: World, scale: float = 1.0) -> Tensor:
    """Undo the loss scale, then clip as `spec` says; returns the global L2 norm before clipping."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    shards = [local(gradient) for gradient in gradients]
    if scale != 1.0:
        torch._foreach_mul_(shards, 1.0 / scale)
    limit = math.inf if spec.max_gradient_norm is None else spec.max_gradient_norm
    if any(is_sharded(gradient) for gradient in gradients):
        norm = _norm_of_shards(shards, world)
        torch._foreach_mul_(shards, _factor(norm, limit))
    else:
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    if spec.max_gradient_value is not None:
        torch._foreach_clamp_min_(shards, -spec.max_gradient_value)
        torch._foreach_clamp_max_(shards, spec.max_gradient_value)
    return norm


def _norm_of_shards(shards: list[Tensor], world: World) -> Tensor:
    norms = torch.stack([norm.double() for norm in torch._foreach_norm(shards)])
    return world.total(norms.square().sum()).sqrt().float()


def _factor(norm: Tensor, limit: float) -> Tensor:
    """As in torch.nn.utils.clip_grad_norm_."""
    return torch.clamp(limit / (norm + 1e-6), max=1.0)
