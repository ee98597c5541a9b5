"""Byte streams: unpacked from gzip or Zstandard, with an error where they break off; hashed, and their lines counted.

The trade-off: all of it happens in Python calls, one per block, which is why the blocks are a megabyte. Not for formats
that seek in what is packed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable
from typing import BinaryIO, cast

import zstandard

from regraft.errors import InvalidDataError

_BLOCK = 2**20


class _Readable(io.RawIOBase):
    """A raw stream made of a function that returns up to n bytes, and b"" at the end."""

    def __init__(self, read: Callable[[int], bytes], inner: BinaryIO) -> None:
        self._read = read
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        block = self._read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._inner.close()
        super().close()


def sha256_of(stream: BinaryIO) -> tuple[str, int]:
    """The SHA-256 and the length of all that is left of `stream`; other threads run meanwhile."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_BLOCK))
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
        size += count
    return digest.hexdigest(), size


def count_newlines(stream: BinaryIO, size: int) -> int:
    """Newlines in the next `size` bytes."""
    lines = 0
    while size and (block := stream.read(min(_BLOCK, size))):
        lines += block.count(b"\n")
        size -= len(block)
    return lines


def buffered(stream: BinaryIO) -> BinaryIO:
    """A stream that reads ahead, so that short reads and lines are cheap, and that has the methods of a local one."""
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), _BLOCK))


def unpacked(stream: BinaryIO, *, name: str, field: str, uri: str) -> BinaryIO:
    """`stream` decompressed as the suffix of `name` says; InvalidDataError once it proves broken or cut off."""
    if name.lower().endswith(".gz"):
        inside: gzip.GzipFile | _Zstandard = gzip.GzipFile(fileobj=stream, mode="rb")
    elif name.lower().endswith(".zst"):
        inside = _Zstandard(stream)
    else:
        return stream

    def read(size: int) -> bytes:
        try:
            return inside.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise InvalidDataError(
                f"the compressed file is broken or cut off: {error}",
                field=field,
                value=uri,
                remedy="Get the whole file, or compress it again.",
                reason="corpus_malformed",
            ) from error

    return buffered(cast(BinaryIO, _Readable(read, stream)))


class _Zstandard:
    """All frames of a stream, one after another. The package's own reader takes a cut-off stream for a whole one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._ready = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._ready:
            if not self._packed and not self._fill():
                return b""
            self._ready = memoryview(self._unpack())
        block, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return block

    def _fill(self) -> bool:
        self._packed = self._stream.read(_BLOCK // 8)
        if not self._packed and self._frame:
            raise EOFError("it ends within a frame")
        return bool(self._packed)

    def _unpack(self) -> bytes:
        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        block = self._frame.decompress(self._packed)
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        return block
