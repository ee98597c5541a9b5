"""Undoing HDF5's filters outside of HDF5, with the size of what comes out known beforehand.

HDF5 believes what packed bytes say about their size; here nothing grows past the size of a chunk, and what is shorter
or longer is damage. All of them leave Python's lock for their work, so chunks unpack in several threads at once.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_CHECKSUM_BYTES = 4
_LZ4_HEAD = 12  # size of all (8 bytes) and of a block (4), big-endian
_LZ4_BLOCK_HEAD = 4
_LZ4_MIN_BLOCK = 1024  # smaller ones would keep the loop over them busy


class DamagedChunkError(ValueError):
    """Packed bytes from which the values cannot be had."""


def inflate(packed: Bytes, wanted: int) -> Bytes:
    """Deflate."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(packed.data, wanted + _CHECKSUM_BYTES + 1)
    except zlib.error as error:
        raise DamagedChunkError(str(error)) from error
    if not stream.eof or len(found) not in (wanted, wanted + _CHECKSUM_BYTES):
        raise DamagedChunkError(f"it does not inflate to {wanted} bytes")
    return np.frombuffer(found, dtype=np.uint8)


def unshuffle(item: int) -> Callable[[Bytes, int], Bytes]:
    """Byte shuffle of values of `item` bytes."""

    def undo(packed: Bytes, wanted: int) -> Bytes:
        if len(packed) != wanted:
            raise DamagedChunkError(f"it has {len(packed)} bytes, not {wanted}")
        return np.ascontiguousarray(packed.reshape(item, -1).T).reshape(-1)

    return undo


def unchecked(packed: Bytes, _: int) -> Bytes:
    """Fletcher's checksum of 32 bits behind the bytes, checked and taken off."""
    content, checksum = packed[:-_CHECKSUM_BYTES], packed[-_CHECKSUM_BYTES:]
    if len(checksum) < _CHECKSUM_BYTES or not _same_checksum(content, int.from_bytes(checksum.tobytes(), "little")):
        raise DamagedChunkError("its checksum is another one")
    return content


def unlz4(packed: Bytes, wanted: int) -> Bytes:
    """LZ4 as HDF5's plug-in frames it: sizes, then blocks, each after its packed size; an incompressible one is raw."""
    head = packed[:_LZ4_HEAD].tobytes()
    size, block = int.from_bytes(head[:8], "big"), int.from_bytes(head[8:], "big")
    if len(head) < _LZ4_HEAD or size not in (wanted, wanted + _CHECKSUM_BYTES) or block < min(size, _LZ4_MIN_BLOCK):
        raise DamagedChunkError(f"it does not say that {wanted} bytes come out")
    found = np.empty(size, dtype=np.uint8)
    at = _LZ4_HEAD
    for start in range(0, size, block):
        target = found[start : start + block]
        length = int.from_bytes(packed[at : at + _LZ4_BLOCK_HEAD].tobytes(), "big")
        at += _LZ4_BLOCK_HEAD
        source = packed[at : at + length]
        if len(source) != length:
            raise DamagedChunkError("it ends within a block")
        _unpack_block(source, target)
        at += length
    return found


def _unpack_block(source: Bytes, target: Bytes) -> None:
    if len(source) == len(target):
        target[:] = source
        return
    # The function never reads or writes outside of what it is given.
    done = _lz4()(source.ctypes.data, target.ctypes.data, len(source), len(target))
    if done != len(target):
        raise DamagedChunkError(f"a block of it does not unpack to {len(target)} bytes")


@cache
def _lz4() -> Callable[[int, int, int, int], int]:
    """LZ4's own function for untrusted input, out of the plug-in: HDF5 would have to parse the file for its filter."""
    import hdf5plugin

    library = ctypes.CDLL(str(Path(hdf5plugin.PLUGIN_PATH) / "libh5lz4.so"))
    function = library.LZ4_decompress_safe
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    function.restype = ctypes.c_int
    return function


def _same_checksum(content: Bytes, expected: int) -> bool:
    """HDF5's way: 16-bit words, first byte high; both sums modulo 65,535, for which it may write 0 or 65,535."""
    words = np.zeros(-(-len(content) // 2) * 2, dtype=np.uint8)
    words[: len(content)] = content
    low = high = 0
    for start in range(0, len(words), 2**16):  # a part at a time, so that no sum leaves 64 bits
        part = words[start : start + 2**16].view(">u2").astype(np.int64)
        high += len(part) * low + int(part @ np.arange(len(part), 0, -1))
        low += int(part.sum())
    return (high % 65535, low % 65535) == ((expected >> 16) % 65535, (expected & 0xFFFF) % 65535)
