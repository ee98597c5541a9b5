"""Child process: looks into a torch file on standard input without torch. Its one word says the encoding.

Both encodings are a pickle whose tensors lie outside of it: as entries of a zip, or, in what torch wrote before 1.6,
behind the pickles, each with its number of values before it.
"""

from __future__ import annotations

import os
import sys
from io import BytesIO
from typing import Any

from regraft_worker.conversion.containers._flatten import Flat
from regraft_worker.conversion.containers._notes import ITEM_BYTES, Storage, Tensor
from regraft_worker.conversion.containers._pickle_machine import unpickle
from regraft_worker.conversion.containers._report import UNREADABLE, UNSUPPORTED, Refusal, answer, limit, shown
from regraft_worker.conversion.containers._zip_entries import MAX_PICKLE_BYTES, content, parts

_MEMORY = 2**29
_SECONDS = 20
_FILE = 0
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_COUNT_BYTES = 8


def look_into_zip() -> dict[str, Any]:
    """A file that torch 1.6 or newer wrote."""
    found = parts(_FILE)
    order = content(_FILE, found["byteorder"]) if "byteorder" in found else b"little"
    if order not in (b"little", b"big"):
        raise Refusal(UNREADABLE, f"its byte order is {shown(order)}")
    storages: dict[str, Storage] = {}
    tree = unpickle(BytesIO(content(_FILE, found["data.pkl"])), storages)
    places: dict[str, int] = {}
    sums: dict[str, int] = {}
    for key, storage in storages.items():
        part = found.get(f"data/{key}")
        if part is None:
            raise Refusal(UNREADABLE, f"its storage {shown(key)} is missing")
        if part.size != _bytes(storage):
            raise Refusal(UNREADABLE, f"its storage {shown(key)} has {part.size} bytes, not {_bytes(storage)}")
        places[key], sums[key] = part.begin, part.crc
    return _described(tree, places, sums, big_endian=order == b"big")


def look_into_legacy() -> dict[str, Any]:
    """A file that torch before 1.6 wrote: five pickles, then the storages."""
    size = os.fstat(_FILE).st_size
    file = BytesIO(os.pread(_FILE, min(size, MAX_PICKLE_BYTES), 0))
    storages: dict[str, Storage] = {}
    magic, protocol, system = (unpickle(file, {}) for _ in range(3))
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise Refusal(UNSUPPORTED, "it does not begin as torch's legacy files do")
    if not isinstance(system, dict) or not isinstance(system.get("little_endian"), bool):
        raise Refusal(UNREADABLE, "it does not say its byte order")
    tree, keys = unpickle(file, storages), unpickle(file, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise Refusal(UNREADABLE, "its list of storages is not that of its tensors")
    places = _laid_out([storages[key] for key in keys], file.tell(), size)
    return _described(tree, places, {}, big_endian=not system["little_endian"])


def _laid_out(storages: list[Storage], at: int, size: int) -> dict[str, int]:
    places: dict[str, int] = {}
    for storage in storages:
        count = os.pread(_FILE, _COUNT_BYTES, at)
        if len(count) < _COUNT_BYTES or int.from_bytes(count, "little") != storage.numel or storage.key in places:
            raise Refusal(UNREADABLE, f"its storage {shown(storage.key)} is not there, or of another size")
        places[storage.key] = at + _COUNT_BYTES
        at += _COUNT_BYTES + _bytes(storage)
    if at != size:
        raise Refusal(UNREADABLE, f"its last storage ends at byte {at} of {size}")
    return places


def _described(tree: object, places: dict[str, int], sums: dict[str, int], *, big_endian: bool) -> dict[str, Any]:
    flat = Flat(tree)
    first: dict[Tensor, str] = {}
    aliases = {}
    for name, tensor in flat.tensors.items():
        if first.setdefault(tensor, name) != name and 0 not in tensor.shape:
            aliases[name] = first[tensor]
    tensors = {name: _place(tensor, places, sums) for name, tensor in flat.tensors.items()}
    return {"big_endian": big_endian, "tensors": tensors, "values": flat.values, "aliases": aliases}


def _place(tensor: Tensor, places: dict[str, int], sums: dict[str, int]) -> dict[str, Any]:
    storage = tensor.storage
    begin = places[storage.key]
    return {
        "dtype": storage.dtype,
        "shape": tensor.shape,
        "stride": tensor.stride,
        "begin": begin + tensor.offset * ITEM_BYTES[storage.dtype] if 0 not in tensor.shape else 0,
        "storage": {"begin": begin, "size": _bytes(storage), "crc": sums.get(storage.key, 0)},
    }


def _bytes(storage: Storage) -> int:
    return storage.numel * ITEM_BYTES[storage.dtype]


if __name__ == "__main__":
    limit(memory=_MEMORY, seconds=_SECONDS)
    answer(look_into_zip if sys.argv[1:] == ["torch-zip"] else look_into_legacy)
