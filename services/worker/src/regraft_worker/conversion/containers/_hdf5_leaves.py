"""What the datasets of an HDF5 checkpoint stand for, by the attributes that each release gives them."""

from __future__ import annotations

from math import prod
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np

from regraft_worker.conversion.containers._hdf5_layout import Places, place, stored_type
from regraft_worker.conversion.containers._notes import ITEM_BYTES
from regraft_worker.conversion.containers._report import UNREADABLE, UNSAFE, UNSUPPORTED, Refusal, shown

_TENSORS = (None, "TorchTensorH5Type", "NumpyArrayH5Type", "TorchTensorSerializer", "NumpyArraySerializer")
_MAX_TEXT = 2**20
_MAX_CONSTANT_BYTES = 2**38
_BFLOAT16 = 15  # in `rtfx_dtypes`


class Leaves:
    """All leaves by name, while the file is gone through."""

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, Any]] = {}
        self.values: dict[str, object] = {}
        self.links: dict[str, str] = {}
        self._constant_bytes = 0

    def check_new(self, name: str) -> None:
        if name in self.tensors or name in self.values:
            raise Refusal(UNREADABLE, f"two of its leaves are called {shown(name)}")

    def constant(self, name: str, entry: dict[str, Any]) -> None:
        """A tensor of one value that takes no room in the file; together they stay within what models need."""
        self._constant_bytes += prod(entry["shape"]) * ITEM_BYTES[entry["dtype"]]
        if self._constant_bytes > _MAX_CONSTANT_BYTES:
            raise Refusal(
                UNSAFE, f"its constant tensors, up to {shown(name)}, have more than {_MAX_CONSTANT_BYTES} bytes"
            )
        self.tensors[name] = entry

    def resolved(self) -> dict[str, Any]:
        """What the parent is told: every name with its content, links followed."""
        aliases: dict[str, str] = {}
        for name in self.links:
            target = self._end_of(name)
            if target in self.tensors:
                self.check_new(name)
                aliases[name] = target
            elif target in self.values:
                self.check_new(name)
                self.values[name] = self.values[target]
            else:
                raise Refusal(UNREADABLE, f"its link {shown(name)} leads to {shown(target)}, which is not there")
        for name, target in aliases.items():
            self.tensors[name] = self.tensors[target]
        return {"tensors": self.tensors, "values": self.values, "aliases": aliases}

    def _end_of(self, name: str) -> str:
        seen = set()
        while name in self.links:
            if name in seen:
                raise Refusal(UNREADABLE, f"its link {shown(name)} leads back to itself")
            seen.add(name)
            name = self.links[name]
        return name


def read_leaf(leaves: Leaves, name: str, dataset: h5py.Dataset, places: Places) -> None:
    """Note down one dataset."""
    leaves.check_new(name)
    if "filepath" in dataset.attrs:
        raise Refusal(UNSAFE, f"the values of {shown(name)} are in another file")
    kind = _kind(dataset)
    if kind in _TENSORS and _flag(dataset, "is_constructible"):
        leaves.constant(name, _constant(name, dataset))
    elif kind in _TENSORS:
        leaves.tensors[name] = _tensor(name, dataset, places)
    elif kind == "NoneH5Type":
        leaves.values[name] = None
    elif kind == "StringH5Type":
        leaves.values[name] = str(attribute(dataset, "string_value", "string_val"))
    elif kind == "ScalarH5Type":
        leaves.values[name] = _scalar(name, dataset)
    elif kind == "ObjectH5Type":
        leaves.values[name] = {"opaque": "a pickled object"}
    else:
        leaves.values[name] = {"opaque": kind}


def attribute(item: h5py.HLObject, *names: str) -> Any:
    """The first of these attributes that is there, as plain Python; None if none is."""
    for name in names:
        if name in item.attrs:
            return _plain(name, item)
    return None


def unquoted(name: str) -> str:
    """Names of leaves up to 0.4 are kept as in a URL."""
    return unquote(name)


def _plain(name: str, item: h5py.HLObject) -> Any:
    if prod(item.attrs.get_id(name).shape or ()) > _MAX_TEXT:
        raise Refusal(UNSAFE, f"its attribute {shown(name)} has more than {_MAX_TEXT} values")
    found = item.attrs[name]
    if isinstance(found, np.generic | np.ndarray):
        found = found.tolist()
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found


def _kind(dataset: h5py.Dataset) -> str | None:
    """By the name that 0.4 has for it; None: a tensor."""
    named = attribute(dataset, "__H5_TYPE__", "__TYPE__")
    if named is not None:
        return str(named)
    for flag, kind in (("is_none", "NoneH5Type"), ("is_string", "StringH5Type"), ("is_scalar", "ScalarH5Type")):
        if _flag(dataset, flag):
            return kind
    if "string_val" in dataset.attrs:
        return "StringH5Type"
    return "ObjectH5Type" if "object_value" in dataset.attrs else None


def _flag(dataset: h5py.Dataset, name: str) -> bool:
    return attribute(dataset, name) in (True, 1)


def _scalar(name: str, dataset: h5py.Dataset) -> object:
    if dataset.shape != () or stored_type(name, dataset) not in ITEM_BYTES:
        raise Refusal(UNSUPPORTED, f"{shown(name)} is called a scalar and has the shape {shown(dataset.shape)}")
    if dataset.id.get_create_plist().get_external_count() or dataset.is_virtual:
        raise Refusal(UNSAFE, f"the value of {shown(name)} is in another file")
    return np.asarray(dataset[()]).item()


def _tensor(name: str, dataset: h5py.Dataset, places: Places) -> dict[str, Any]:
    if dataset.shape is None:
        raise Refusal(UNREADABLE, f"{shown(name)} has no shape")
    if _flag(dataset, "compressed"):
        raise Refusal(UNSUPPORTED, f"{shown(name)} is packed in a way of its own")
    _check_shape(name, dataset)
    dtype = _meant_type(name, dataset)
    return {"dtype": dtype, "shape": dataset.shape, **place(name, dataset, places)}


def _check_shape(name: str, dataset: h5py.Dataset) -> None:
    said = attribute(dataset, "shapes")
    if said is not None and said != [list(dataset.shape)]:
        raise Refusal(UNREADABLE, f"{shown(name)} says it has the shape {shown(said)}, and has {shown(dataset.shape)}")


def _meant_type(name: str, dataset: h5py.Dataset) -> str:
    stored = stored_type(name, dataset)
    said = attribute(dataset, "dtypes")
    codes = attribute(dataset, "rtfx_dtypes")
    if _flag(dataset, "is_bfloat16") or codes == [_BFLOAT16] or said == ["torch.bfloat16"]:
        if ITEM_BYTES[stored] != ITEM_BYTES["bfloat16"]:
            raise Refusal(UNREADABLE, f"{shown(name)} is called bfloat16 and stored as {stored}")
        return "bfloat16"
    if said is not None and said != [f"torch.{stored}"] and said != [stored]:
        raise Refusal(UNSUPPORTED, f"{shown(name)} is called {shown(said)} and stored as {stored}")
    return stored


def _constant(name: str, dataset: h5py.Dataset) -> dict[str, Any]:
    shape = attribute(dataset, "shape")
    shape = [] if shape is None else shape if isinstance(shape, list) else [shape]
    value = attribute(dataset, "fill_value")
    said = attribute(dataset, "dtype")
    dtype = _meant_type(name, dataset) if said is None else str(said).removeprefix("torch.")
    sizes = all(type(size) is int and 0 <= size < 2**62 for size in shape)
    if not sizes or dtype not in ITEM_BYTES or not isinstance(value, bool | int | float):
        raise Refusal(UNREADABLE, f"the constant {shown(name)} has no shape, value or type that can be read")
    return {"dtype": dtype, "shape": shape, "constant": value}
