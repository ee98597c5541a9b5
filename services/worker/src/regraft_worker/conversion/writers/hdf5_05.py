"""A Cerebras checkpoint as HDF5, format 0.5: a dataset per tensor, everything else in attributes of the root.

Datasets are contiguous and placed before they are filled, so that the size is known at the start and writing is as
fast as to a plain file; `compression="lz4"` writes them as the Model Zoo does, smaller by what the values allow
(weights: hardly) and slower. `__SUCCESS__` is set last; loaders refuse a file without it. An alias of a tensor in
`model` is a hard link, the same dataset under two names, for readers that look for weights by name; any other alias is
what the format calls a linked object, as in the Model Zoo's files.

When not to use it: for releases before 2.6, which do not read format 0.5. bfloat16 is stored as the bits of int16, as
earlier formats do; no file of the Model Zoo was at hand to compare that with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from h5py import h5d

from regraft.errors import InvalidInputError
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.base import (
    COPY_BYTES,
    Copier,
    NewFile,
    Tick,
    named,
    removed_unless_whole,
    reserve,
)
from regraft_worker.conversion.writers.nesting import Kind, Nest, below_first, build, by_keys, in_order
from regraft_worker.conversion.writers.pytree import LEAF, leaf_json, nesting_json

VERSION = 0.5
RELEASE = "2.10.0"
Compression = Literal["none", "lz4"]

# The code that the format has for each dtype; no others are known.
_CODES: Mapping[torch.dtype, int] = {
    torch.bool: 1,
    torch.int64: 5,
    torch.float16: 10,
    torch.float32: 11,
    torch.bfloat16: 15,
}
_STORED: Mapping[torch.dtype, str] = {
    torch.bool: "bool",
    torch.int64: "<i8",
    torch.float16: "<f2",
    torch.float32: "<f4",
    torch.bfloat16: "<i2",
}
_CHUNK_BYTES = 2**20
_WEIGHTS = "model."


def write_hdf5_05(
    path: Path,
    tensors: Iterable[Lazy],
    *,
    values: Mapping[str, object] = {},
    aliases: Mapping[str, str] = {},
    nest: Nest = below_first,
    kind: Kind = by_keys,
    order: Iterable[str] = (),
    compression: Compression = "none",
    release: str = RELEASE,
    tick: Tick,
) -> dict[str, str]:
    """Write a new file; the sha256 of every tensor by name.

    `nest` and `kind` say how dotted names become nested containers, `order` which names come first in them. Empty
    lists and dicts among `values` are kept. `release` is what the file says it was written by.

    Raises:
        InvalidInputError: a dtype, name or value that the format cannot hold.
        ConflictError: the file is there already.
    """
    by_name = named(tensors, aliases)
    tensor_aliases = {name: target for name, target in aliases.items() if target in by_name}
    leaves: dict[str, object] = dict.fromkeys((*by_name, *aliases), LEAF)
    leaves |= {name: LEAF if _is_leaf(value) else value for name, value in values.items()}
    with (
        removed_unless_whole(path),
        Copier(tick) as copier,
        _new(path, by_name.values(), compression) as file,
    ):
        file.attrs["__version__"] = VERSION
        file.attrs["__cstorch_version__"] = release
        file.attrs["__spec__"] = nesting_json(build(in_order(leaves, order), nest, kind))
        for lazy in by_name.values():
            _create(file, lazy, compression)
        for name, target in tensor_aliases.items():
            if name.startswith(_WEIGHTS):
                file[name] = file[target]
        _describe(file, by_name, values, aliases)
        _fill(file, path, by_name.values(), copier)
        file.attrs["__SUCCESS__"] = True
        digests = copier.digests(tensor_aliases)
        file.close()
        _sync(path)
        return digests


def _new(path: Path, tensors: Iterable[Lazy], compression: Compression) -> h5py.File:
    """An empty file, once there is room for the tensors."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        reserve(descriptor, sum(lazy.nbytes for lazy in tensors) if compression == "none" else 0, path)
    finally:
        os.close(descriptor)
    return h5py.File(path, "w", libver=("earliest", "latest"))


def _create(file: h5py.File, lazy: Lazy, compression: Compression) -> None:
    if lazy.dtype not in _CODES or "/" in lazy.name or not lazy.name:
        raise _cannot_hold(f"tensor '{lazy.name}'", str(lazy.dtype))
    chunked = compression == "lz4" and lazy.shape and lazy.nbytes
    dataset = _chunked(file, lazy) if chunked else _contiguous(file, lazy)
    dataset.attrs["__TYPE__"] = "TorchTensorSerializer"
    dataset.attrs["__NUMPY__"] = True
    dataset.attrs["__TORCH__"] = True
    dataset.attrs["compressed"] = False
    dataset.attrs["dtypes"] = np.array([str(lazy.dtype)], dtype=h5py.string_dtype())
    dataset.attrs["rtfx_dtypes"] = np.array([_CODES[lazy.dtype]])
    dataset.attrs["shapes"] = np.array([lazy.shape])  # of a scalar: no numbers at all, which are floats to numpy


def _contiguous(file: h5py.File, lazy: Lazy) -> Any:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # the same content, the same bytes
    kind = h5py.h5t.py_create(np.dtype(_STORED[lazy.dtype]), logical=True)
    space = h5py.h5s.create_simple(lazy.shape) if lazy.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    return h5py.Dataset(h5d.create(file.id, lazy.name.encode(), kind, space, creation))


def _chunked(file: h5py.File, lazy: Lazy) -> Any:
    import hdf5plugin  # registers its filters with HDF5 when it is imported

    chunks = (_chunk_rows(lazy), *lazy.shape[1:])
    return file.create_dataset(lazy.name, lazy.shape, _STORED[lazy.dtype], chunks=chunks, **hdf5plugin.LZ4())


def _chunk_rows(lazy: Lazy) -> int:
    return min(lazy.shape[0], max(1, _CHUNK_BYTES // _row_bytes(lazy)))


def _row_bytes(lazy: Lazy) -> int:
    return max(1, lazy.nbytes // max(1, lazy.shape[0] if lazy.shape else 1))


def _fill(file: h5py.File, path: Path, tensors: Iterable[Lazy], copier: Copier) -> None:
    file.flush()
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        reserve(descriptor, path.stat().st_size, path)
        for lazy in tensors:
            dataset = file[lazy.name]
            address = dataset.id.get_offset()
            if dataset.chunks:
                _compress(dataset, lazy, copier)
            else:
                # Past HDF5, which keeps nothing of a contiguous dataset in memory; an empty one has no address.
                copier.copy(lazy, NewFile(descriptor).blocks_at(address or 0))
    finally:
        os.close(descriptor)


def _compress(dataset: Any, lazy: Lazy, copier: Copier) -> None:
    chunk_bytes = _chunk_rows(lazy) * _row_bytes(lazy)

    def write(block: torch.Tensor, before: int) -> None:
        start = before // _row_bytes(lazy)
        dataset[start : start + len(block)] = _stored(block)

    copier.copy(lazy, write, block_bytes=max(1, COPY_BYTES // chunk_bytes) * chunk_bytes)


def _stored(block: torch.Tensor) -> Any:
    return (block.view(torch.int16) if block.dtype == torch.bfloat16 else block).numpy()


def _describe(
    file: h5py.File, tensors: Mapping[str, Lazy], values: Mapping[str, object], aliases: Mapping[str, str]
) -> None:
    fields = {name: _of_tensor(lazy) for name, lazy in tensors.items()}
    fields |= {name: _of_value(name, value) for name, value in values.items() if _is_leaf(value)}
    for name, target in aliases.items():
        fields[name] = fields[target] if target in tensors and name.startswith(_WEIGHTS) else _of_link(target)
    for name, found in fields.items():
        file.attrs[f"{name}.__metadata__"] = leaf_json(name, found)


def _of_tensor(lazy: Lazy) -> dict[str, object]:
    return {
        "__TORCH__": True,
        "shapes": [list(lazy.shape)],
        "dtypes": [str(lazy.dtype)],
        "rtfx_dtypes": [_CODES[lazy.dtype]],
        "__TYPE__": "TorchTensorSerializer",
        "__NUMPY__": True,
        "compressed": False,
    }


def _of_value(name: str, value: object) -> dict[str, object]:
    if value is None:
        return {"__TYPE__": "NoneSerializer", "__NONE__": True}
    if isinstance(value, str):
        return {"string_value": value, "__TYPE__": "StringSerializer", "__NONE__": True}
    if isinstance(value, bool | int | float):
        return {"scalar_value": value, "__TYPE__": "ScalarSerializer", "__NONE__": True}
    raise _cannot_hold(f"'{name}'", type(value).__name__)


def _of_link(target: str) -> dict[str, object]:
    return {"key": target, "__LINKED__": True, "__TYPE__": "LinkedObject", "__NONE__": True}


def _is_leaf(value: object) -> bool:
    return not (isinstance(value, dict | list | tuple) and not value)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_hold(what: str, value: str) -> InvalidInputError:
    return InvalidInputError(
        f"{what} cannot be kept in HDF5 format {VERSION}",
        field="target format",
        value=value,
        remedy="Choose a format that is written as a torch file, such as cs-1.8.",
    )
