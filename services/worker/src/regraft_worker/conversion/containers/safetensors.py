"""Safetensors files. The header passes `regraft.safetensors_header`: it describes every byte of the data once."""

from __future__ import annotations

from pathlib import Path

import torch

from regraft.errors import InvalidDataError
from regraft.safetensors_header import read_header
from regraft_worker.conversion.containers._files import opened
from regraft_worker.conversion.containers._mapped import dense
from regraft_worker.conversion.containers.base import UNREADABLE, UNSUPPORTED, Container, refused
from regraft_worker.conversion.lazy import Lazy

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def open_safetensors(path: Path) -> Container:
    """Open one file; its `__metadata__` is not kept.

    Raises:
        InvalidDataError: it is no whole safetensors file, or a tensor is of a type that is not read.
    """
    try:
        header = read_header(path)
    except InvalidDataError as error:
        raise refused(path, UNREADABLE, error.message) from error
    with opened(path) as (mapped, _):
        data = mapped.size - max((entry.end for entry in header.values()), default=0)
        tensors: dict[str, Lazy] = {}
        for name, entry in header.items():
            if entry.dtype not in _DTYPES:
                raise refused(path, UNSUPPORTED, f"'{name}' is stored as {entry.dtype}, which is not read")
            dtype = _DTYPES[entry.dtype]
            tensors[name] = dense(mapped, name, dtype=dtype, shape=entry.shape, begin=data + entry.begin)
    return Container(path, "safetensors", tensors, {}, {}, mapped.close)
