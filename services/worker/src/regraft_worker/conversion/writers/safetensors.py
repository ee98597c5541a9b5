"""One safetensors file: header first, then the tensors one after the other.

Tensors keep the order they come in, except that wider dtypes go first, so that each one is aligned to its items. The
trade-off: the format knows no sharing, so an alias is written out as a copy.

When not to use it: for values that are not tensors; the format has room for strings only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from regraft.errors import InvalidInputError
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.base import Tick, copies_of, named, new_file
from regraft_worker.conversion.writers.copying import Placed, copy_tensors
from regraft_worker.conversion.writers.journal import Journal

_DTYPES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
}
_ALIGNMENT = 8


def write_safetensors(
    path: Path,
    tensors: Iterable[Lazy],
    *,
    values: Mapping[str, object] = {},
    aliases: Mapping[str, str] = {},
    journal: Journal | None = None,
    tick: Tick,
) -> dict[str, str]:
    """Write a new file; the sha256 of every tensor by name. `values` are strings and go into the metadata.

    With the `journal` of this file an earlier call that was cut short is gone on with.

    Raises:
        InvalidInputError: a value or dtype that the format cannot hold.
        ConflictError: the file is there already.
    """
    by_name = named(tensors, aliases)
    everything = [*by_name.values(), *copies_of(by_name, aliases)]
    ordered = sorted(everything, key=lambda lazy: -lazy.dtype.itemsize)
    header, offsets = _header(ordered, _metadata(values))
    size = len(header) + sum(lazy.nbytes for lazy in ordered)
    with new_file(path, size, journal) as file:
        file.write_at(0, header)
        placed = [Placed(lazy, offsets[lazy.name]) for lazy in ordered]
        sums = copy_tensors(file, placed, tick=tick, journal=journal)
    return {name: found.sha256 for name, found in sums.items()}


def _header(tensors: list[Lazy], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The bytes before the data, and where each tensor starts in the file."""
    entries: dict[str, object] = {"__metadata__": metadata}
    begins: dict[str, int] = {}
    reached = 0
    for lazy in tensors:
        begins[lazy.name] = reached
        offsets = [reached, reached + lazy.nbytes]
        entries[lazy.name] = {"dtype": _dtype(lazy), "shape": list(lazy.shape), "data_offsets": offsets}
        reached += lazy.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + begin for name, begin in begins.items()}


def _dtype(lazy: Lazy) -> str:
    if lazy.dtype not in _DTYPES:
        raise _cannot_hold(f"'{lazy.name}' has a dtype that safetensors cannot hold", lazy.dtype)
    return _DTYPES[lazy.dtype]


def _metadata(values: Mapping[str, object]) -> dict[str, str]:
    metadata = {"format": "pt"}
    for name, value in values.items():
        if not isinstance(value, str):
            raise _cannot_hold(f"'{name}' is no tensor, and safetensors has room for strings only", value)
        metadata[name] = value
    return metadata


def _cannot_hold(message: str, value: object) -> InvalidInputError:
    return InvalidInputError(
        message, field="target format", value=str(value), remedy="Leave it out, or write a Cerebras format."
    )
