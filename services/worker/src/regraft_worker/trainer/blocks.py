"""What is done to the blocks of a decoder so that they take less memory or less time; names and weights stay.

Only `forward` of each block is replaced, so `state_dict()` is the same and sharding may follow. Compiling is by block:
one compilation serves them all, in seconds where a whole model takes minutes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from regraft.specs import TrainingSpec
from regraft_worker.model.decoder import Decoder


def prepare_blocks(model: Decoder, spec: TrainingSpec) -> None:
    """Compile the blocks, and let those that the job says compute their activations again in the backward pass."""
    for number, layer in enumerate(model.layers):
        forward: Any = layer.forward
        if spec.compile:
            forward = torch.compile(forward)
        if recomputed(number, spec.activation_checkpointing):
            # Outside of what is compiled: the backward pass then runs the compiled block once more.
            forward = partial(checkpoint, forward, use_reentrant=False)
        layer.forward = forward


def recomputed(number: int, how: str) -> bool:
    """Whether block `number` keeps its input only: every second one under `selective`."""
    return how == "full" or (how == "selective" and number % 2 == 0)
