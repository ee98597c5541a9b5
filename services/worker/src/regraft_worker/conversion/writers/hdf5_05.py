"""A Cerebras checkpoint as HDF5, format 0.5: a dataset per tensor, everything else in attributes of the root.

HDF5 makes the frame: a file with contiguous datasets that have their places and no values. With it everything is known
that stands around the values, so they are copied to their places in a plain file, as fast as such a file is written
and as well gone on with when it was cut short; the frame is put around them last, and before that it is no HDF5 file.
An alias of a tensor in `model` is a hard link, the same dataset under two names, for readers that look for weights by
name; any other alias is what the format calls a linked object, as in the Model Zoo's files. Those files are packed with
LZ4, which makes weights hardly smaller; these are not.

When not to use it: for releases before 2.6, which do not read format 0.5. bfloat16 is stored as the bits of int16, as
earlier formats do; no file of the Model Zoo was at hand to compare that with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from h5py import h5d

from regraft.errors import InvalidInputError
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.base import NewFile, Tick, named, new_file, with_aliases
from regraft_worker.conversion.writers.copying import Placed, copy_tensors
from regraft_worker.conversion.writers.journal import Journal
from regraft_worker.conversion.writers.nesting import Kind, Nest, below_first, build, by_keys, in_order
from regraft_worker.conversion.writers.pytree import LEAF, leaf_json, nesting_json

VERSION = 0.5
RELEASE = "2.10.0"
Attributes = Mapping[str, Any]

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
    release: str = RELEASE,
    journal: Journal | None = None,
    tick: Tick,
) -> dict[str, str]:
    """Write a new file; the sha256 of every tensor by name.

    `nest` and `kind` say how dotted names become nested containers, `order` which names come first in them. Empty
    lists and dicts among `values` are kept. `release` is what the file says it was written by. With the
    `journal` of this file an earlier call that was cut short is gone on with.

    Raises:
        InvalidInputError: a dtype, name or value that the format cannot hold.
        ConflictError: the file is there already.
    """
    by_name = named(tensors, aliases)
    for lazy in by_name.values():
        _check(lazy)
    tensor_aliases = {name: target for name, target in aliases.items() if target in by_name}
    leaves: dict[str, object] = dict.fromkeys((*by_name, *aliases), LEAF)
    leaves |= {name: LEAF if _is_leaf(value) else value for name, value in values.items()}
    spec = nesting_json(build(in_order(leaves, order), nest, kind))
    attributes = {"__version__": VERSION, "__cstorch_version__": release, "__spec__": spec}
    attributes |= _described(by_name, values, aliases)
    with _beside(path) as frame:
        placed = _frame(frame, by_name, tensor_aliases, attributes)
        with new_file(path, frame.stat().st_size, journal) as file:
            sums = copy_tensors(file, placed, tick=tick, journal=journal)
            _copy_frame(frame, file, placed)
    return with_aliases({name: found.sha256 for name, found in sums.items()}, tensor_aliases)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name for the frame, and nothing under it afterwards."""
    frame = path.with_name(path.name + ".frame")
    try:
        yield frame
    finally:
        frame.unlink(missing_ok=True)


def _frame(path: Path, tensors: Mapping[str, Lazy], aliases: Mapping[str, str], attributes: Attributes) -> list[Placed]:
    """The file without the values of its tensors, which take no room in it; where they go."""
    path.touch()
    os.truncate(path, sum(lazy.nbytes for lazy in tensors.values()))  # says so where a file cannot be so large
    with h5py.File(path, "w", libver=("earliest", "latest")) as file:
        datasets = {name: _create(file, lazy) for name, lazy in tensors.items()}
        for name, target in aliases.items():
            if name.startswith(_WEIGHTS):
                file[name] = file[target]
        for key, value in attributes.items():
            file.attrs[key] = value
        file.attrs["__SUCCESS__"] = True
        # An empty dataset has no address.
        return [Placed(lazy, datasets[name].id.get_offset() or 0) for name, lazy in tensors.items()]


def _check(lazy: Lazy) -> None:
    if lazy.dtype not in _CODES or "/" in lazy.name or not lazy.name:
        raise _cannot_hold(f"tensor '{lazy.name}'", str(lazy.dtype))


def _create(file: h5py.File, lazy: Lazy) -> Any:
    dataset = _contiguous(file, lazy)
    dataset.attrs["__TYPE__"] = "TorchTensorSerializer"
    dataset.attrs["__NUMPY__"] = True
    dataset.attrs["__TORCH__"] = True
    dataset.attrs["compressed"] = False
    dataset.attrs["dtypes"] = np.array([str(lazy.dtype)], dtype=h5py.string_dtype())
    dataset.attrs["rtfx_dtypes"] = np.array([_CODES[lazy.dtype]])
    dataset.attrs["shapes"] = np.array([lazy.shape])  # of a scalar: no numbers at all, which are floats to numpy
    return dataset


def _contiguous(file: h5py.File, lazy: Lazy) -> Any:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # the same content, the same bytes
    kind = h5py.h5t.py_create(np.dtype(_STORED[lazy.dtype]), logical=True)
    space = h5py.h5s.create_simple(lazy.shape) if lazy.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    return h5py.Dataset(h5d.create(file.id, lazy.name.encode(), kind, space, creation))


def _copy_frame(frame: Path, file: NewFile, tensors: list[Placed]) -> None:
    """All that lies around the values; what makes it an HDF5 file comes last."""
    ends = sorted((one.at, one.at + one.lazy.nbytes) for one in tensors if one.lazy.nbytes)
    gaps = zip([0, *(end for _, end in ends)], [*(at for at, _ in ends), frame.stat().st_size], strict=True)
    with frame.open("rb") as source:
        for begin, end in reversed(list(gaps)):
            source.seek(begin)
            file.write_at(begin, source.read(end - begin))


def _described(tensors: Mapping[str, Lazy], values: Mapping[str, object], aliases: Mapping[str, str]) -> dict[str, str]:
    fields = {name: _of_tensor(lazy) for name, lazy in tensors.items()}
    fields |= {name: _of_value(name, value) for name, value in values.items() if _is_leaf(value)}
    for name, target in aliases.items():
        fields[name] = fields[target] if target in tensors and name.startswith(_WEIGHTS) else _of_link(target)
    return {f"{name}.__metadata__": leaf_json(name, found) for name, found in fields.items()}


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


def _cannot_hold(what: str, value: str) -> InvalidInputError:
    return InvalidInputError(
        f"{what} cannot be kept in HDF5 format {VERSION}",
        field="target format",
        value=value,
        remedy="Choose a format that is written as a torch file, such as cs-1.8.",
    )
