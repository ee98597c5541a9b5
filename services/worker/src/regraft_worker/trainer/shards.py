"""What a process has of a tensor that FSDP2 may have divided.

DTensor is known by what it can do, not by its class: importing the class takes 0.4 s (it brings sympy), which every
process on one device would pay for nothing. Where there is a DTensor, its module has been imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, or all of it when it is not sharded; shares its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, which every process must ask for; on its device."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor
