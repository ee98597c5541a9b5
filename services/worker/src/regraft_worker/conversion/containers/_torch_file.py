"""What the child found in a torch file, as tensors of the mapped file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from regraft_worker.conversion.containers._checksum import Checksum
from regraft_worker.conversion.containers._child import look_into
from regraft_worker.conversion.containers._files import opened
from regraft_worker.conversion.containers._mapped import Mapped, strided
from regraft_worker.conversion.containers.base import Container, Opaque
from regraft_worker.conversion.lazy import Lazy

DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
"""By torch's name, which is what the children say."""


def open_torch(path: Path, encoding: str) -> Container:
    """Open a torch file that is known to be of `encoding`."""
    with opened(path) as (mapped, descriptor):
        found = look_into(path, descriptor, module="_unpickle", words=(encoding,))
        swap = found["big_endian"]
        tensors = {name: _lazy(mapped, name, entry, swap=swap) for name, entry in found["tensors"].items()}
        tensors = _checked(path, mapped, tensors, found["tensors"])
    return Container(path, encoding, tensors, plain_values(found["values"]), found["aliases"], mapped.close)


def plain_values(values: dict[str, Any]) -> dict[str, object]:
    """A child's values: it has a dictionary for each that it did not load."""
    return {name: Opaque(value["opaque"]) if isinstance(value, dict) else value for name, value in values.items()}


def _lazy(mapped: Mapped, name: str, entry: dict[str, Any], *, swap: bool) -> Lazy:
    return strided(
        mapped,
        name,
        dtype=DTYPES[entry["dtype"]],
        shape=tuple(entry["shape"]),
        stride=tuple(entry["stride"]),
        begin=entry["begin"],
        swap=swap,
    )


def _checked(
    path: Path, mapped: Mapped, tensors: dict[str, Lazy], entries: dict[str, dict[str, Any]]
) -> dict[str, Lazy]:
    """The same tensors; those whose storage has a checksum (0 is none) are read after it was compared."""
    storages = {entry["storage"]["begin"]: entry["storage"] for entry in entries.values() if entry["storage"]["crc"]}
    sums = {begin: Checksum(path, mapped, **storage) for begin, storage in storages.items()}
    checked = dict(tensors)
    for name, lazy in tensors.items():
        checksum = sums.get(entries[name]["storage"]["begin"])
        if checksum is not None:
            checked[name] = replace(lazy, read_rows=checksum.before(lazy.read_rows, name=name))
    return checked
