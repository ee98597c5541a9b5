"""The header of a `.safetensors` file: which tensors it holds, without reading one of them.

A file is eight bytes (length of the header, little endian), the header (JSON), and the data. The header comes from a
stranger, so everything it says is checked against the file: a header that passes describes every byte of the data
exactly once. Only the standard library is used, so that the API can look into a checkpoint without torch.

When not to use it: to read tensors; use `safetensors.safe_open` for that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

from regraft.errors import InvalidDataError

MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8

_ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


class TensorEntry(NamedTuple):
    """One tensor; `begin` and `end` count bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class _HeaderError(ValueError):
    """What is wrong with a header, without the name of the file."""


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Name to entry of every tensor in the file, in the order of the header.

    Raises:
        InvalidDataError: the file is not a whole, consistent safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            text = _header_text(file, size)
        return _entries(_parse(text), size - _LENGTH_BYTES - len(text))
    except _HeaderError as error:
        raise _refused(path, str(error)) from error
    except OSError as error:
        raise _refused(path, f"it cannot be read ({error.strerror})") from error


def _refused(path: Path, cause: str) -> InvalidDataError:
    return InvalidDataError(
        f"not a usable safetensors file: {cause}",
        field=path.name,
        value=str(path),
        remedy="Download or write the file again.",
        reason="corrupt_safetensors",
    )


def _header_text(file: BinaryIO, size: int) -> bytes:
    prefix = file.read(_LENGTH_BYTES)
    if len(prefix) < _LENGTH_BYTES:
        raise _HeaderError(f"it has {len(prefix)} bytes and cannot hold a header")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise _HeaderError(f"it announces a header of {length} bytes, more than {MAX_HEADER_BYTES}")
    if _LENGTH_BYTES + length > size:
        raise _HeaderError(f"it announces a header of {length} bytes and has {size - _LENGTH_BYTES} left")
    return file.read(length)


def _parse(text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_each_key_once)
    except _HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise _HeaderError("its header is not JSON") from error
    if not isinstance(header, dict):
        raise _HeaderError("its header is not a JSON object")
    return header


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _HeaderError(f"the key '{key}' is in its header twice")
        found[key] = value
    return found


def _entries(header: dict[str, object], data_bytes: int) -> dict[str, TensorEntry]:
    _check_metadata(header.pop("__metadata__", {}))
    entries = {name: _entry(name, value) for name, value in header.items()}
    _check_cover(entries, data_bytes)
    return entries


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _HeaderError("its __metadata__ is not an object of strings")


def _entry(name: str, value: object) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"the entry of '{name}' must have dtype, shape and data_offsets")
    shape, offsets = _counts(value["shape"]), _counts(value["data_offsets"])
    if shape is None:
        raise _HeaderError(f"the shape of '{name}' is not a list of sizes")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderError(f"the offsets of '{name}' are not a begin and an end")
    entry = TensorEntry(str(value["dtype"]), shape, offsets[0], offsets[1])
    _check_bytes(name, entry)
    return entry


def _counts(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    # bool is an int to Python, `true` is no size.
    return tuple(value) if all(type(item) is int and item >= 0 for item in value) else None


def _check_bytes(name: str, entry: TensorEntry) -> None:
    if entry.dtype not in _ITEM_BYTES:
        raise _HeaderError(f"'{name}' has the unknown dtype '{entry.dtype[:40]}'")
    expected = prod(entry.shape) * _ITEM_BYTES[entry.dtype]
    if expected != entry.end - entry.begin:
        raise _HeaderError(
            f"'{name}' with dtype {entry.dtype} and shape {list(entry.shape)} needs {expected} bytes "
            f"and is given {entry.end - entry.begin}"
        )


def _check_cover(entries: dict[str, TensorEntry], data_bytes: int) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > data_bytes:
            raise _HeaderError(f"'{name}' ends at byte {entry.end} of {data_bytes} bytes of data")
        if entry.begin < reached:
            raise _HeaderError(f"'{name}' begins at byte {entry.begin}, inside another tensor that ends at {reached}")
        if entry.begin > reached:
            raise _HeaderError(f"bytes {reached} to {entry.begin} before '{name}' belong to no tensor")
        reached = entry.end
    if reached != data_bytes:
        raise _HeaderError(f"the tensors end at byte {reached} of {data_bytes} bytes of data")
