"""Weights and moments between files and memory, whatever they are spread over.

Files hold whole tensors by name, memory holds what a process has of them. A tensor at a time is whole in memory, so
neither saving nor going on needs room for the model twice, and a checkpoint of one world goes on in any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from regraft_worker.conversion.hf import open_folder
from regraft_worker.model.decoder import Decoder
from regraft_worker.trainer.checkpoint import unusable
from regraft_worker.trainer.folders import OPTIMIZER
from regraft_worker.trainer.shards import is_sharded, local


@torch.no_grad()
def put(into: Tensor, values: Tensor) -> None:
    """Copy whole values into what this process has of a tensor; nothing is sent."""
    if is_sharded(into):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values, into.device_mesh, into.placements, src_data_rank=None).to_local()
    local(into).copy_(values)


def load_weights(model: Decoder, folder: Path) -> None:
    """Fill a model from a Hugging Face directory, as fp32.

    Raises:
        InvalidDataError: the tensors are not those of the model.
    """
    parameters = dict(model.named_parameters())
    with open_folder(folder) as side:
        _, own = side.own()
        if set(own) != set(parameters):
            raise unusable(folder, "model")
        for name, lazy in own.items():
            put(parameters[name], lazy.whole().to(device=parameters[name].device, dtype=torch.float32))


def load_moments(moments: Mapping[str, Tensor], folder: Path) -> None:
    """Fill moments, bit for bit.

    Raises:
        InvalidDataError: those of the checkpoint are others: of another model, or of another optimiser.
    """
    with safe_open(folder / OPTIMIZER, framework="pt") as file:
        if set(file.keys()) != set(moments):
            raise unusable(folder, "optimiser state")
        for name, moment in moments.items():
            saved = file.get_tensor(name)
            if saved.shape != moment.shape or saved.dtype != moment.dtype:
                raise unusable(folder, "optimiser state")
            put(moment, saved.to(moment.device))
