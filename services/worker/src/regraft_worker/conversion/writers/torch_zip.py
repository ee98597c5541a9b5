"""What `torch.save` writes, without holding a tensor: a zip of one pickle and one entry per storage.

The pickle names the tensors by stand-ins, so it is made before any of them is read; with it the whole layout is known,
and the storages are copied to their places. Plain `torch.load` reads the file, also with `weights_only` and `mmap`.

When not to use it: for dtypes younger than torch 1.6's typed storages (float8, unsigned beyond one byte).
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch._utils import _rebuild_tensor_v2
from zlib_ng import zlib_ng

from regraft.errors import InvalidInputError
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.base import NewFile, Tick, named, new_file, with_aliases
from regraft_worker.conversion.writers.copying import Placed, copy_tensors
from regraft_worker.conversion.writers.journal import Journal
from regraft_worker.conversion.writers.nesting import Kind, Nest, below_first, build, by_keys, in_order
from regraft_worker.conversion.writers.zip_layout import ALIGNMENT, Entry, directory, lay_out

_STORAGES: Mapping[torch.dtype, type] = {
    torch.bool: torch.BoolStorage,
    torch.uint8: torch.ByteStorage,
    torch.int8: torch.CharStorage,
    torch.int16: torch.ShortStorage,
    torch.int32: torch.IntStorage,
    torch.int64: torch.LongStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float32: torch.FloatStorage,
    torch.float64: torch.DoubleStorage,
}
_PLAIN = (bool, int, float, str, type(None), dict, list, tuple)
_ID_DIGITS = 40


def write_torch_zip(
    path: Path,
    tensors: Iterable[Lazy],
    *,
    values: Mapping[str, object] = {},
    aliases: Mapping[str, str] = {},
    nest: Nest = below_first,
    kind: Kind = by_keys,
    order: Iterable[str] = (),
    journal: Journal | None = None,
    tick: Tick,
) -> dict[str, str]:
    """Write a new file; the sha256 of every tensor by name. An alias is the same tensor under another name.

    `nest` and `kind` say how dotted names become nested containers, `order` which names come first in them. With the
    `journal` of this file an earlier call that was cut short is gone on with.

    Raises:
        InvalidInputError: a dtype that this encoding cannot hold.
        ConflictError: the file is there already.
    """
    by_name = named(tensors, aliases)
    tree = build(in_order(_leaves(by_name, values, aliases), order), nest, kind)
    small = {"data.pkl": _pickled(tree), ".format_version": b"1", ".storage_alignment": str(ALIGNMENT).encode()}
    small |= {"byteorder": sys.byteorder.encode(), "version": b"3\n", ".data/serialization_id": bytes(_ID_DIGITS)}
    entries = _entries(path.stem, small, list(by_name.values()))
    size = entries[-1].end + len(directory(entries, [0] * len(entries)))
    with new_file(path, size, journal) as file:
        archive = _Archive(file, entries)
        placed = [Placed(lazy, archive.place(f"data/{number}")) for number, lazy in enumerate(by_name.values())]
        sums = copy_tensors(file, placed, tick=tick, journal=journal, with_crc32=True)
        digests = with_aliases({name: found.sha256 for name, found in sums.items()}, aliases)
        small[".data/serialization_id"] = _identity(digests)
        archive.finish({f"data/{number}": found.crc32 for number, found in enumerate(sums.values())}, small)
    return digests


class _Storage:
    """What the pickle says of a storage."""

    __slots__ = ("dtype", "key", "length")

    def __init__(self, key: str, lazy: Lazy) -> None:
        self.key = key
        self.dtype = _STORAGES[lazy.dtype]
        self.length = math.prod(lazy.shape)


class _Tensor:
    """Pickles as a whole, contiguous tensor."""

    __slots__ = ("_arguments",)

    def __init__(self, storage: _Storage, shape: tuple[int, ...]) -> None:
        self._arguments = (storage, 0, shape, _strides(shape), False, OrderedDict())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_tensor_v2, self._arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> tuple[object, ...] | None:
        if isinstance(obj, _Storage):
            return ("storage", obj.dtype, obj.key, "cpu", obj.length)
        return None


class _Archive:
    """The entries of one file."""

    def __init__(self, file: NewFile, entries: list[Entry]) -> None:
        self._file = file
        self._entries = {_short(entry.name): entry for entry in entries}

    def place(self, name: str) -> int:
        """Where the data of an entry begins."""
        return self._entries[name].data_at

    def finish(self, storages: Mapping[str, int], small: Mapping[str, bytes]) -> None:
        """Write what is around the storages, whose checksums are given, and the small entries."""
        for name, content in small.items():
            self._file.write_at(self.place(name), content)
        crc32s = {**storages, **{name: zlib_ng.crc32(content) for name, content in small.items()}}
        for name, entry in self._entries.items():
            self._frame(entry, crc32s[name])
        entries = list(self._entries.values())
        self._file.write_at(entries[-1].end, directory(entries, [crc32s[name] for name in self._entries]))

    def _frame(self, entry: Entry, crc32: int) -> None:
        self._file.write_at(entry.at, entry.header)
        self._file.write_at(entry.data_at + entry.size, entry.trailer(crc32))


def _entries(stem: str, small: Mapping[str, bytes], tensors: list[Lazy]) -> list[Entry]:
    sizes = {name: len(content) for name, content in small.items()}
    storages = {f"data/{number}": lazy.nbytes for number, lazy in enumerate(tensors)}
    last = {name: sizes.pop(name) for name in ("version", ".data/serialization_id")}
    return lay_out((f"{stem}/{name}", size) for name, size in (sizes | storages | last).items())


def _short(name: str) -> str:
    """Without the folder that all entries are in."""
    return name.partition("/")[2]


def _leaves(tensors: Mapping[str, Lazy], values: Mapping[str, object], aliases: Mapping[str, str]) -> dict[str, object]:
    leaves: dict[str, object] = {}
    for number, lazy in enumerate(tensors.values()):
        if lazy.dtype not in _STORAGES:
            raise _cannot_hold(f"'{lazy.name}' has a dtype that this encoding cannot hold", str(lazy.dtype))
        leaves[lazy.name] = _Tensor(_Storage(str(number), lazy), lazy.shape)
    for name, value in values.items():
        if not isinstance(value, _PLAIN):
            raise _cannot_hold(f"'{name}' is no tensor and no plain value", type(value).__name__, "Leave it out.")
    leaves |= values
    return leaves | {name: leaves[target] for name, target in aliases.items()}


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(max(1, size) for size in shape[axis + 1 :]) for axis in range(len(shape)))


def _pickled(tree: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(tree)
    return buffer.getvalue()


def _identity(digests: Mapping[str, str]) -> bytes:
    """Digits that differ when the content does."""
    digest = hashlib.sha256("".join(f"{name} {found}\n" for name, found in digests.items()).encode())
    return str(int(digest.hexdigest(), 16))[-_ID_DIGITS:].rjust(_ID_DIGITS, "0").encode()


def _cannot_hold(message: str, value: str, remedy: str = "Write safetensors.") -> InvalidInputError:
    return InvalidInputError(message, field="target format", value=value, remedy=remedy)
