"""A group of processes under torchrun: who is in it, and how a model is spread over it.

`ddp`: every process holds the model; gradients are added up while the backward pass runs. `fsdp` (FSDP2,
`fully_shard`): each block's weights, gradients and moments are divided among the processes, gathered when the block
computes and let go afterwards. Both average gradients over processes; the loss is multiplied by their number, so that
what arrives is the sum, as the divisor of the whole batch asks for.

Weights stay fp32 and travel as fp32, so that a run of several processes computes what a single one does; gathering
them in bf16 would halve the traffic and change the embeddings and norms.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regraft.errors import InvalidInputError
from regraft_worker.model.decoder import Decoder
from regraft_worker.trainer.targets import Target
from regraft_worker.trainer.world import Alone, World

# Others wait this long while the main process writes; a process that dies is noticed at once, by torchrun.
_PATIENCE = timedelta(minutes=60)


class Together:
    """One process of a group."""

    def __init__(self, target: Target) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = torch.device(target.device)

    def agree(self, flag: bool) -> bool:
        """The main process's flag, in every process."""
        said = torch.tensor([int(flag)], device=self._device)
        dist.broadcast(said, src=0)
        return bool(said.item())

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in every process."""
        added = values.detach().to(self._device, copy=True)
        dist.all_reduce(added)
        return added.to(values.device)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.total(torch.zeros(1))


def world_for(target: Target) -> World:
    """The group that torchrun started this process in, joined at the first call; or one process.

    Raises:
        InvalidInputError: the target takes a group, and torchrun has started none.
    """
    if target.strategy == "single":
        return Alone()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        raise InvalidInputError(
            f"{target.strategy} trains in processes that torchrun starts, and this is none",
            field="target.devices",
            value=target.devices,
            remedy="Call regraft_worker.launch.train, which starts them.",
        )
    if not dist.is_initialized():
        device = torch.device(target.device) if target.device != "cpu" else None
        dist.init_process_group(target.backend, timeout=_PATIENCE, device_id=device)
    return Together(target)


def shard(model: Decoder, target: Target) -> None:
    """Divide a model over the group, block by block; what is outside of blocks is one more unit."""
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh(torch.device(target.device).type, (dist.get_world_size(),))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def settle(model: nn.Module) -> None:
    """After scoring, what is outside of blocks is still gathered; put it back, or parameters are not the shards."""
    if hasattr(model, "reshard"):  # an FSDPModule; importing that class takes 0.4 s
        model.reshard()


def replicate(objective: nn.Module) -> nn.Module:
    """The same model in every process, gradients added up."""
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


def synchronised(objective: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Gradients of replicas are exchanged once, at the last part of a step. Shards exchange every part: keeping whole
    gradients in between would cost the memory that sharding saves."""
    if isinstance(objective, DistributedDataParallel) and not last:
        return objective.no_sync()
    return nullcontext()
