"""Where the values of HDF5 datasets lie, after refusing everything that lies nowhere, elsewhere or twice.

Allowed are hard links, links by name to something in the root, and values that are contiguous, in the header (a few
bytes) or in chunks through deflate, shuffle, fletcher32 or LZ4. Each chunk must be there once and lie in the file, and
no two may share bytes: what comes out is then at most some thousand times what the file has, and nothing of others.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from math import prod
from typing import Any

import h5py
import numpy as np

from regraft_worker.conversion.containers._notes import ITEM_BYTES
from regraft_worker.conversion.containers._report import UNREADABLE, UNSAFE, UNSUPPORTED, Refusal, shown

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32004: "lz4"}
_MAX_OBJECTS = 200_000
_MAX_DEPTH = 8
_MAX_CHUNKS = 4_000_000
_MAX_CHUNK_BYTES = 256 * 2**20
_MAX_INLINE_BYTES = 2**16


class Places:
    """Every run of bytes in the file that holds values."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._runs: list[tuple[int, int]] = []

    def add(self, name: str, begin: int | None, size: int) -> None:
        if begin is None or begin + size > self._size:
            raise Refusal(UNREADABLE, f"the values of {shown(name)} are not all there")
        if size:
            self._runs.append((begin, begin + size))
        if len(self._runs) > _MAX_CHUNKS:
            raise Refusal(UNSAFE, f"its values lie in more than {_MAX_CHUNKS} pieces")

    def check_apart(self) -> None:
        """Refuse a file in which two tensors, or two chunks, share bytes."""
        self._runs.sort()
        if any(after[0] < before[1] for before, after in pairwise(self._runs)):
            raise Refusal(UNSAFE, "two of its tensors lie on the same bytes")


def datasets(file: h5py.File) -> tuple[dict[str, h5py.Dataset], dict[str, str]]:
    """Path to dataset, and the paths that only link to another one.

    Raises:
        Refusal: it has links out of the file, or is not a plain tree.
    """
    found: dict[str, h5py.Dataset] = {}
    links: dict[str, str] = {}
    seen: dict[int, str] = {}
    _walk(file, "", found, links, seen)
    for name, target in links.items():
        if target not in found:
            raise Refusal(UNSAFE, f"its link {shown(name)} leads to {shown(target)}, which is no tensor of the file")
    return found, links


def _walk(
    group: h5py.Group, prefix: str, found: dict[str, h5py.Dataset], links: dict[str, str], seen: dict[int, str]
) -> None:
    if prefix.count("/") > _MAX_DEPTH:
        raise Refusal(UNSAFE, f"its groups are more than {_MAX_DEPTH} deep")
    for key in group:
        name = prefix + key
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.SoftLink):
            links[name] = link.path.removeprefix("/")
        elif type(link) is not h5py.HardLink:
            raise Refusal(UNSAFE, f"its link {shown(name)} leads to another file")
        else:
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if isinstance(item, h5py.Dataset) and address in seen:
                links[name] = seen[address]
            elif isinstance(item, h5py.Dataset):
                found[name] = item
            elif not isinstance(item, h5py.Group) or address in seen:
                raise Refusal(UNSAFE, f"its object {shown(name)} is no dataset, or a group that is in itself")
            seen.setdefault(address, name)
            if isinstance(item, h5py.Group):
                _walk(item, f"{name}/", found, links, seen)
        if len(seen) + len(links) > _MAX_OBJECTS:
            raise Refusal(UNSAFE, f"it has more than {_MAX_OBJECTS} objects")


def stored_type(name: str, dataset: h5py.Dataset) -> str:
    """torch's name of the type that the values have in the file."""
    found = str(dataset.dtype)
    exact = found in ITEM_BYTES and dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True))
    if not exact or dataset.dtype.byteorder == ">":
        raise Refusal(UNSUPPORTED, f"{shown(name)} is stored as {shown(found)}, which is not read")
    return found


def place(name: str, dataset: h5py.Dataset, places: Places) -> dict[str, Any]:
    """Where the values of a tensor are."""
    _check_own(name, dataset)
    layout = dataset.id.get_create_plist().get_layout()
    size = prod(dataset.shape) * dataset.dtype.itemsize
    if size == 0:
        return {"inline": ""}
    if layout == h5py.h5d.COMPACT and size <= _MAX_INLINE_BYTES:
        return {"inline": base64.b64encode(np.asarray(dataset[()]).tobytes()).decode()}
    if layout == h5py.h5d.CONTIGUOUS:
        places.add(name, dataset.id.get_offset(), size)
        return {"begin": dataset.id.get_offset()}
    if layout == h5py.h5d.CHUNKED:
        return _chunks(name, dataset, places)
    raise Refusal(UNSUPPORTED, f"{shown(name)} has a layout that is not read")


def _check_own(name: str, dataset: h5py.Dataset) -> None:
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        raise Refusal(UNSAFE, f"the values of {shown(name)} are put together from other datasets")
    if plist.get_external_count():
        raise Refusal(UNSAFE, f"the values of {shown(name)} are in another file")


def _chunks(name: str, dataset: h5py.Dataset, places: Places) -> dict[str, Any]:
    shape, chunk, filters = dataset.shape, dataset.chunks, _filters(name, dataset)
    chunk_bytes = prod(chunk) * dataset.dtype.itemsize
    grid = [-(-size // step) for size, step in zip(shape, chunk, strict=True)]
    if chunk_bytes > _MAX_CHUNK_BYTES or prod(grid) > _MAX_CHUNKS:
        raise Refusal(UNSAFE, f"{shown(name)} announces {prod(grid)} chunks of {chunk_bytes} bytes")
    at: list[tuple[int, int, int] | None] = [None] * prod(grid)

    def note(info: Any) -> None:
        number = _number(info.chunk_offset, chunk, grid)
        plain = all(info.filter_mask >> place & 1 for place in range(len(filters)))
        if number is None or at[number] is not None or (plain and info.size != chunk_bytes):
            raise Refusal(UNREADABLE, f"a chunk of {shown(name)} is out of place, there twice or of another size")
        places.add(name, info.byte_offset, info.size)
        at[number] = (info.byte_offset, info.size, info.filter_mask)

    dataset.id.chunk_iter(note)
    missing = at.count(None)
    if missing:
        raise Refusal(UNREADABLE, f"{missing} of the {len(at)} chunks of {shown(name)} are not there")
    return {"chunk": chunk, "filters": filters, "at": at}


def _number(offset: tuple[int, ...], chunk: tuple[int, ...], grid: list[int]) -> int | None:
    """The place of a chunk among all, in the order of rows; None: it has none."""
    number = 0
    for start, step, count in zip(offset, chunk, grid, strict=True):
        if start % step or start // step >= count:
            return None
        number = number * count + start // step
    return number


def _filters(name: str, dataset: h5py.Dataset) -> list[str]:
    plist = dataset.id.get_create_plist()
    numbers = [plist.get_filter(place)[0] for place in range(plist.get_nfilters())]
    unknown = [number for number in numbers if number not in _FILTERS]
    if unknown or len(set(numbers)) != len(numbers):
        raise Refusal(UNSUPPORTED, f"{shown(name)} is packed with the HDF5 filters {numbers}, which are not read")
    return [_FILTERS[number] for number in numbers]
