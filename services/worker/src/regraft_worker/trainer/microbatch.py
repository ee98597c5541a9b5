"""How many sequences a device takes at a time.

Asked for, or estimated: what a sequence keeps for the backward pass, against the memory that weights, gradients and
moments leave. The estimate counts the tensors that a block saves (below) and is meant to be a little too large; where
it is wrong, `training.micro_batch_size` says better. It looks at the memory the device has in all, not at what happens
to be free, so that the same job is cut in the same way each time.

Bytes a token keeps per block, e being the size of a number (2 in bf16): residual stream and norm in fp32, 8 H; queries,
keys, values, their rotated copies, what attention gives and what the projections take, 10 e H; the feed-forward's
inner values before and after the activation, 2 e F. A block that computes again keeps its input, 4 H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from regraft.errors import InvalidInputError
from regraft.families import Architecture, parameter_count
from regraft.specs import TrainingSpec
from regraft_worker.trainer.blocks import recomputed
from regraft_worker.trainer.weights import Description

_USABLE = 0.9  # the rest is the allocator's, the libraries' and the system's
_LOSS_BYTES = 3 * 4 * 2**26  # a chunk of logits, its gradient and a temporary


@dataclass(frozen=True)
class MicroBatch:
    """The division of one device's part of a step."""

    size: int
    """Sequences at a time, at most."""
    parts: int
    """Times a step."""
    why: str
    """For the job's history."""


def micro_batch(
    spec: TrainingSpec, description: Description, *, length: int, memory_bytes: int, processes: int, sharded: bool
) -> MicroBatch:
    """The division for windows of `length` tokens on a device with `memory_bytes`.

    Raises:
        InvalidInputError: the batch cannot be divided among the processes.
    """
    if spec.batch_size % processes:
        raise InvalidInputError(
            f"{processes} devices cannot share this batch evenly",
            field="training.batch_size",
            value=spec.batch_size,
            remedy=f"Use a multiple of {processes}, or another number of devices.",
        )
    own = spec.batch_size // processes
    if spec.micro_batch_size is not None:
        return _divided(own, min(own, spec.micro_batch_size), "as asked")
    held = held_bytes(spec, description, shards=processes if sharded else 1)
    each = sequence_bytes(spec, description.architecture, length=length)
    fits = max(1, int(_USABLE * memory_bytes - held) // each)
    gib = 2**30
    why = f"estimated: {each / gib:.3g} GiB each beside {held / gib:.3g} GiB, in {memory_bytes / gib:.3g} GiB"
    return _divided(own, min(own, fits), why)


def held_bytes(spec: TrainingSpec, description: Description, *, shards: int = 1) -> int:
    """What does not depend on the batch: weights, gradients, moments, and for lower precisions the weights' copies."""
    architecture = description.architecture
    parameters = parameter_count(description.family, architecture)
    moments = 2 if spec.optimizer.name == "adamw_8bit" else 8
    block = parameters // max(1, architecture.num_layers)
    whole = 2 * 4 * block if shards > 1 else 0  # two blocks are gathered at a time
    kept = sum(not recomputed(number, spec.activation_checkpointing) for number in range(architecture.num_layers))
    copies = 0 if spec.precision == "fp32" else 2 * block * max(1, kept)
    return parameters * (4 + 4 + moments) // shards + whole + copies + _LOSS_BYTES


def sequence_bytes(spec: TrainingSpec, architecture: Architecture, *, length: int) -> int:
    """What one sequence keeps until its backward pass; one block's worth at least, however much is computed again."""
    e = 4 if spec.precision == "fp32" else 2
    block = architecture.hidden_size * (8 + 10 * e) + 2 * e * architecture.filter_size
    layers = range(architecture.num_layers)
    again = sum(recomputed(number, spec.activation_checkpointing) for number in layers)
    kept = max(1, len(layers) - again)
    return length * (kept * block + again * 4 * architecture.hidden_size + 12 * architecture.hidden_size)


def _divided(own: int, size: int, why: str) -> MicroBatch:
    parts = math.ceil(own / size)
    even = math.ceil(own / parts)
    text = f"{even} sequence(s) at a time on each device, {parts} time(s) a step ({why})"
    return MicroBatch(size=even, parts=parts, why=text)
