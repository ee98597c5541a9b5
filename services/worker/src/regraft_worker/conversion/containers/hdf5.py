"""Cerebras' HDF5 checkpoints, format 0.1 to 0.5 (releases 1.7 to 2.10).

A child process finds out what lies where (`_inspect_hdf5`); here HDF5 is not used at all: values are cut out of the
mapped file, and chunks unpacked by filters whose output is bounded. Nothing that a file has pickled is ever loaded:
the nesting is in the names, and pickled leaves are `Opaque`.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import torch

from regraft_worker.conversion.containers._child import look_into
from regraft_worker.conversion.containers._chunks import Chunked, Rest
from regraft_worker.conversion.containers._files import opened
from regraft_worker.conversion.containers._filters import (
    DamagedChunkError,
    inflate,
    unchecked,
    unlz4,
    unshuffle,
)
from regraft_worker.conversion.containers._mapped import Mapped, dense
from regraft_worker.conversion.containers._torch_file import DTYPES, plain_values
from regraft_worker.conversion.containers.base import UNREADABLE, Container, refused
from regraft_worker.conversion.lazy import Lazy, of_tensor


def open_hdf5(path: Path) -> Container:
    """Open one file.

    Raises:
        InvalidDataError: it has links out of itself, unknown filters or shapes that its size denies, or is damaged.
    """
    with opened(path) as (mapped, descriptor):
        found = look_into(path, descriptor, module="_inspect_hdf5")
        rest = Rest()
        tensors = {name: _lazy(path, mapped, rest, name, entry) for name, entry in found["tensors"].items()}
    values = plain_values(found["values"])
    return Container(path, f"hdf5-{found['version']}", tensors, values, found["aliases"], mapped.close)


def _lazy(path: Path, mapped: Mapped, rest: Rest, name: str, entry: dict[str, Any]) -> Lazy:
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    if "begin" in entry:
        return dense(mapped, name, dtype=dtype, shape=shape, begin=entry["begin"])
    if "inline" in entry:
        content = bytearray(base64.b64decode(entry["inline"]))
        values = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return of_tensor(name, values.reshape(shape))
    if "constant" in entry:
        return _constant(name, dtype, shape, entry["constant"])
    return _chunked(path, mapped, rest, name, entry)


def _constant(name: str, dtype: torch.dtype, shape: tuple[int, ...], value: float) -> Lazy:
    return Lazy(name, dtype, shape, lambda start, stop: torch.full((stop - start, *shape[1:]), value, dtype=dtype))


def _chunked(path: Path, mapped: Mapped, rest: Rest, name: str, entry: dict[str, Any]) -> Lazy:
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    known = {"deflate": inflate, "shuffle": unshuffle(dtype.itemsize), "fletcher32": unchecked, "lz4": unlz4}
    chunked = Chunked(
        mapped=mapped,
        rest=rest,
        dtype=dtype,
        shape=shape,
        chunk=tuple(entry["chunk"]),
        at=entry["at"],
        undo=[known[filter_] for filter_ in entry["filters"]],
    )

    def read_rows(start: int, stop: int) -> torch.Tensor:
        try:
            return chunked.read_rows(start, stop)
        except DamagedChunkError as error:
            raise refused(path, UNREADABLE, f"a chunk of '{name}' is damaged ({error})") from error

    return Lazy(name, dtype, shape, read_rows)
