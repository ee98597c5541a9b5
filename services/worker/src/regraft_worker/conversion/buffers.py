"""Tensors that no source holds: the head of a headless model, and the buffers of old Hugging Face checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from regraft.families import Architecture, Family
from regraft_worker.conversion.lazy import Lazy, of_tensor

HEAD_DEVIATION = 0.02
_MASKED = -1e9
_DRAWN_ROWS = 1024


def new_head(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Lazy:
    """A head as the Model Zoo's converter makes one: weights N(0, 0.02), a bias of zeros.

    The same `seed` gives the same weights, whichever rows are asked for first.
    """
    if len(shape) == 1:
        return of_tensor(name, torch.zeros(shape, dtype=dtype))

    def drawn(part: int) -> torch.Tensor:
        numbers = np.random.default_rng((seed, part)).standard_normal((_DRAWN_ROWS, *shape[1:]), dtype=np.float32)
        return torch.from_numpy(numbers).mul_(HEAD_DEVIATION).to(dtype)

    def read_rows(start: int, stop: int) -> torch.Tensor:
        parts = range(start // _DRAWN_ROWS, -(-stop // _DRAWN_ROWS))
        first = parts.start * _DRAWN_ROWS
        return torch.cat([drawn(part) for part in parts])[start - first : stop - first]

    return Lazy(name, dtype, shape, read_rows)


def legacy_buffers(family: Family, architecture: Architecture) -> Iterator[Lazy]:
    """Causal mask and masked value of each layer, and the rotary frequencies where the family's old files had them.

    The mask is (1, 1, P, P) in bytes: the names and values that release 1.8 of the Model Zoo gave back for GPT-J, and
    every release for GPT-NeoX.
    """
    positions = architecture.max_position_embeddings
    mask = torch.ones(positions, positions, dtype=torch.uint8).tril_().reshape(1, 1, positions, positions)
    attention = _attention(family)
    for layer in range(architecture.num_layers):
        prefix = attention.replace("{n}", str(layer))
        yield of_tensor(prefix + "bias", mask)
        yield of_tensor(prefix + "masked_bias", torch.tensor(_MASKED))
        if not architecture.rotary_interleaved:
            yield of_tensor(prefix + "rotary_emb.inv_freq", _frequencies(architecture))


def _attention(family: Family) -> str:
    """What the tensors of a layer's attention have before their names."""
    name = next(tensor.hf for tensor in family.tensors if ".q." in tensor.own[0])
    return name.rpartition(".")[0].rpartition(".")[0] + "."


def _frequencies(architecture: Architecture) -> torch.Tensor:
    exponents = torch.arange(0, architecture.rotary_dim, 2).float() / architecture.rotary_dim
    return 1.0 / (architecture.rope_theta**exponents)
