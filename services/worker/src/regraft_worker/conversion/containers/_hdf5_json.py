"""The leaves of format 0.5: for each, an attribute of the root called `<name>.__metadata__` that holds JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py

from regraft_worker.conversion.containers._hdf5_leaves import Leaves, attribute
from regraft_worker.conversion.containers._report import UNREADABLE, Refusal, shown

_SUFFIX = ".__metadata__"
_MAX_JSON = 2**20


def described_leaves(leaves: Leaves, file: h5py.File) -> None:
    """Note down every leaf that is no dataset, and see that those which are one are there."""
    for key in _leaf_attributes(file):
        name = key.removesuffix(_SUFFIX)
        entry = _entry(file, key)
        kind = entry.get("__TYPE__")
        if kind == "LinkedObject" or entry.get("__LINKED__"):
            leaves.links[name] = _text(name, entry.get("key"))
        elif entry.get("__TORCH__") or entry.get("__NUMPY__"):
            if name not in leaves.tensors and name not in leaves.links:
                raise Refusal(UNREADABLE, f"its tensor {shown(name)} is missing")
        else:
            leaves.check_new(name)
            leaves.values[name] = _value(name, kind, entry)


def _leaf_attributes(file: h5py.File) -> Iterator[str]:
    return (key for key in list(file.attrs) if key.endswith(_SUFFIX))


def _entry(file: h5py.File, key: str) -> dict[str, Any]:
    text = attribute(file, key)
    if not isinstance(text, str) or len(text) > _MAX_JSON:
        raise Refusal(UNREADABLE, f"its attribute {shown(key)} is no text of modest size")
    try:
        entry = json.loads(text)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(UNREADABLE, f"its attribute {shown(key)} is not the JSON it should be") from error
    if not isinstance(entry, dict):
        raise Refusal(UNREADABLE, f"its attribute {shown(key)} describes nothing")
    return entry


def _value(name: str, kind: object, entry: dict[str, Any]) -> object:
    if kind == "NoneSerializer":
        return None
    if kind == "StringSerializer":
        return _text(name, entry.get("string_value"))
    if kind == "ScalarSerializer":
        value = entry.get("scalar_value")
        if not isinstance(value, bool | int | float):
            raise Refusal(UNREADABLE, f"its number {shown(name)} is {shown(value)}")
        return value
    return {"opaque": str(kind)[:100]}


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Refusal(UNREADABLE, f"its leaf {shown(name)} is no text but {shown(value)}")
    return value
