"""The optimiser a job asks for, and what of it a checkpoint holds."""

from __future__ import annotations

from torch import Tensor, nn

from regraft.specs import OptimizerSpec
from regraft_worker.trainer.optimizer import MOMENTS, AdamW, AdamWTorch
from regraft_worker.trainer.optimizer_8bit import AdamW8bit, parts_of

Optimizer = AdamW | AdamWTorch | AdamW8bit


def optimizer_for(model: nn.Module, spec: OptimizerSpec) -> Optimizer:
    """An optimiser with moments of zero.

    Raises:
        InvalidInputError: it needs a package that is not installed.
    """
    if spec.name == "adamw_8bit":
        return AdamW8bit(model, spec)
    return AdamWTorch(model, spec) if spec.name == "adamw_torch" else AdamW(model, spec)


def moments_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Its tensors, themselves and no copies, by `<moment>/<own name>`; of 8-bit ones `<moment>.codes/<own name>` and
    `<moment>.scale/<own name>`."""
    return {
        f"{part}/{name}": tensor
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
        for part, tensor in parts_of(moment, optimizer.state[parameter][moment]).items()
    }
