"""Tensors of many shapes and dtypes, and readers that say nothing of our own writers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import h5py
import torch
from safetensors.torch import load_file

from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.writers import flat, write_hdf5_05, write_safetensors, write_torch_zip

State = dict[str, torch.Tensor]
WRITERS = {
    "safetensors": write_safetensors,
    "torch_zip": lambda path, tensors, **options: write_torch_zip(path, tensors, nest=flat, **options),
    "hdf5_05": lambda path, tensors, **options: write_hdf5_05(path, tensors, nest=flat, **options),
}


def state() -> State:
    torch.manual_seed(7)
    return {
        "wide": torch.randn(300, 5),
        "half": torch.randn(7, 3, 2).half(),
        "brain": torch.randn(11, 4).bfloat16(),
        "numbers": torch.arange(9),
        "flags": torch.tensor([True, False, True]),
        "scalar": torch.tensor(-1e9),
        "empty": torch.zeros(0, 4),
        "specials": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def lazies(state: Mapping[str, torch.Tensor]) -> list[Lazy]:
    return [of_tensor(name, tensor) for name, tensor in state.items()]


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def digests(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: sha256(tensor) for name, tensor in state.items()}


def read_back(writer: str, path: Path) -> State:
    if writer == "safetensors":
        return dict(load_file(path))
    if writer == "torch_zip":
        return dict(torch.load(path, weights_only=True))
    return read_hdf5(path)


def read_hdf5(path: Path) -> State:
    with h5py.File(path) as file:
        return {name: _tensor(dataset) for name, dataset in file.items()}


def _tensor(dataset: h5py.Dataset) -> torch.Tensor:
    tensor = torch.as_tensor(dataset[()])
    return tensor.view(torch.bfloat16) if list(dataset.attrs["dtypes"]) == ["torch.bfloat16"] else tensor


def no_tick(count: int) -> None:
    """Somebody who does not care."""
