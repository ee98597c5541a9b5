"""What a checkpoint is written from: a copy of a run's tensors in host memory, which training no longer touches.

Names are those of the decoder (`own` names of the family tables), tensors are whole whatever they are sharded over, so
what is written fits any number of processes.

The copy is made while the next step computes: forward and backward passes only read weights and moments. Who is about
to change them calls `HostBuffers.wait` first, who writes the copy `Snapshot.wait`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _at_once() -> None:
    """The copy is there already."""


@dataclass(frozen=True)
class Snapshot:
    """A run at one step. Its tensors may be buffers that the next snapshot is copied into: write it before that."""

    weights: dict[str, Tensor]
    """By own name."""
    moments: dict[str, Tensor]
    """By `<moment>/<own name>`, such as `exp_avg/norm.weight`."""
    scalars: dict[str, float | int]
    """What else the optimiser needs, such as `updates`, the number of updates it has made."""
    wait: Callable[[], object] = _at_once
    """Returns when the tensors hold their values; before that, nobody may read them."""


class HostBuffers:
    """Copies of tensors in memory that is taken once: new pages cost several times what copying into old ones does."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._running: Future[None] | None = None

    def begin(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Begin to copy the values of now; those copied before are overwritten. Nothing is there before `wait`."""
        self.wait()
        pairs = [(self._buffer(name, tensor), tensor.detach()) for name, tensor in tensors.items()]
        computed = torch.cuda.current_stream().record_event() if any(tensor.is_cuda for _, tensor in pairs) else None
        self._running = self._thread.submit(_copy, pairs, computed)
        return {name: copy for name, (copy, _) in zip(tensors, pairs, strict=True)}

    def wait(self) -> float:
        """Until the copy is there; returns the seconds that took."""
        began = time.monotonic()
        if self._running is not None:
            self._running.result()
        return time.monotonic() - began

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        known = self._buffers.get(name)
        if known is None or known.shape != tensor.shape or known.dtype != tensor.dtype:
            # Pinned: a device copies into such pages at full speed, and all tensors at once.
            known = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[name] = known
        return known


def _copy(pairs: list[tuple[Tensor, Tensor]], computed: torch.cuda.Event | None) -> None:
    if computed is not None:
        beside = torch.cuda.Stream(pairs[0][1].device)
        beside.wait_event(computed)
        with torch.cuda.stream(beside):
            for copy, tensor in pairs:
                copy.copy_(tensor, non_blocking=True)
        beside.synchronize()
        return
    for copy, tensor in pairs:
        # Byte by byte through numpy: torch would start threads of its own beside those that compute.
        _bytes(copy)[...] = _bytes(tensor)


def _bytes(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
