"""What a checkpoint is written from: a copy of a run's tensors in host memory, which training no longer touches.

Names are those of the decoder (`own` names of the family tables), tensors are whole whatever they are sharded over, so
what is written fits any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """A run at one step. Its tensors may be buffers that the next snapshot is copied into: write it before that."""

    weights: dict[str, Tensor]
    """By own name."""
    moments: dict[str, Tensor]
    """By `<moment>/<own name>`, such as `exp_avg/norm.weight`."""
    scalars: dict[str, float | int]
    """What else the optimiser needs, such as `updates`, the number of updates it has made."""


class HostBuffers:
    """Copies of tensors in memory that is taken once: new pages cost several times what copying into old ones does."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of now, by the same names; those copied before are overwritten."""
        copies = {name: self._buffer(name, tensor.detach()) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            copies[name].copy_(tensor.detach(), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return copies

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        known = self._buffers.get(name)
        if known is None or known.shape != tensor.shape or known.dtype != tensor.dtype:
            # Pinned: a device copies into such pages at full speed, and all tensors at once.
            known = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[name] = known
        return known
