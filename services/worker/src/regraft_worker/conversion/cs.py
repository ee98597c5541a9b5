"""Cerebras Model Zoo checkpoints of release 1.8: a `.mdl` (torch zip pickle, `{"model": {...}}`) and a `.yaml`.

The tensors are those of releases 1.7 to 2.9; later releases read this encoding too. Files that a training run saved
(prefix `model.`, optimizer state beside the weights) are read, their optimizer state is not. Writing spools permuted
tensors to disk first, because a pickle is written in one call: the price is disk space for them, never memory.

When not to use it: for the HDF5 encoding of release 2.x, which is refused by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import Architecture, Family, tensor_shape
from regraft.keymap import embedding_row, rows, without_prefix
from regraft_worker.conversion.hf import load_pickle
from regraft_worker.conversion.tensors import Named, cs_to_hf, hf_to_cs

FORMAT = "cs-1.8"
MODEL_FILE = f"pytorch_model_to_{FORMAT}.mdl"
CONFIG_FILE = f"config_to_{FORMAT}.yaml"
_HDF5_MAGIC = b"\x89HDF"


def write_model(path: Path, tensors: Iterable[Named], *, family: Family, architecture: Architecture) -> None:
    """Write Hugging Face tensors as a `.mdl`."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".spool-") as spool:
        state: dict[str, torch.Tensor] = {}
        for name, tensor in tensors:
            parts = hf_to_cs(family, architecture, name, tensor)
            if all(part is tensor for _, part in parts):
                # One tensor, perhaps under two names: stored once, as Cerebras does.
                state |= dict.fromkeys((cs_name for cs_name, _ in parts), _alone(tensor))
            else:
                state |= {cs_name: _on_disk(part, Path(spool) / cs_name) for cs_name, part in parts}
        if architecture.tied_embeddings:
            (embedding,) = embedding_row(family).cs
            state |= {row.cs[0]: state[embedding] for row in rows(family, architecture) if row.is_head}
        torch.save({"model": state}, path)


def read_tensors(path: Path, *, family: Family, architecture: Architecture) -> Iterator[Named]:
    """The Hugging Face tensors in a `.mdl`, ordered by name.

    Raises:
        InvalidDataError: it cannot be read, or does not match the config.
    """
    state = _read_state(path)
    if architecture.tied_embeddings:
        _check_tied(family, architecture, state)
    _check_shapes(family, architecture, state)
    return cs_to_hf(family, architecture, state)


def config_beside(path: Path) -> Path:
    """The YAML that belongs to a `.mdl`: same stem, or `config` for the part before `_to_cs-`, or the only one.

    Raises:
        InvalidInputError: there is none, or more than one to choose from.
    """
    _, found, version = path.stem.partition("_to_cs-")
    named = [path.with_suffix(".yaml"), path.with_name(f"config_to_cs-{version}.yaml")]
    for candidate in named if found else named[:1]:
        if candidate.is_file():
            return candidate
    others = sorted(file for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml"))
    if len(others) == 1:
        return others[0]
    raise InvalidInputError(
        f"{len(others)} YAML files beside {path.name}, none of its name",
        field="config",
        value=str(path),
        remedy=f"Put its config beside it as {named[0].name}.",
        reason="no_config",
    )


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a copy if it is a view: a pickle would hold all of what it is a view of."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() else tensor.clone()


def _on_disk(tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """A copy whose memory is a file."""
    mapped = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
    return mapped.reshape(tensor.shape).copy_(tensor)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == _HDF5_MAGIC:
        raise _refused(path, "the HDF5 encoding of Cerebras 2.x is not read", "Convert it to cs-1.8 or hf first.")
    state = load_pickle(path).get("model")
    if not isinstance(state, dict):
        raise _refused(path, "it has no 'model' with tensors by name", "Name a Cerebras checkpoint.")
    # Release 1.8 may store a tied tensor as None.
    state = {without_prefix(name): value for name, value in state.items() if value is not None}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise _refused(path, f"'{name}' is not a tensor", "Name a Cerebras checkpoint.")
    return state


def _check_tied(family: Family, architecture: Architecture, state: Mapping[str, torch.Tensor]) -> None:
    (embedding,) = embedding_row(family).cs
    for row in rows(family, architecture):
        if row.is_head and row.cs[0] in state and not torch.equal(state[row.cs[0]], state[embedding]):
            raise InvalidDataError(
                "the config shares the embedding with the head, and the file has other values for the head",
                field="share_embedding_weights",
                value=True,
                remedy="Set it to false if the model has a head of its own.",
                reason="config_tensors_disagree",
            )


def _check_shapes(family: Family, architecture: Architecture, state: Mapping[str, torch.Tensor]) -> None:
    for row in rows(family, architecture):
        first, *rest = tensor_shape(row.tensor, architecture)
        expected = (first // len(row.own), *rest)
        for name in row.cs:
            if name in state and tuple(state[name].shape) != expected:
                raise InvalidDataError(
                    f"the weights do not match the config: {name}: "
                    f"expected {list(expected)}, found {list(state[name].shape)}",
                    field="config",
                    value=name,
                    remedy="Use the YAML that was saved with these weights.",
                    reason="config_tensors_disagree",
                )


def _refused(path: Path, what: str, remedy: str) -> InvalidDataError:
    return InvalidDataError(
        f"not a checkpoint this can read: {what}",
        field="checkpoint",
        value=str(path),
        remedy=remedy,
        reason="unsupported_checkpoint",
    )
