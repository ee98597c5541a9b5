"""TensorBoard event files, written without TensorBoard: scalars only.

A file is a sequence of records, each an `Event` message of TensorBoard's `event.proto` in the framing of a TFRecord:

    length uint64, masked crc32c of it, the message, masked crc32c of that        all little-endian

Each record is flushed at once, so that a killed run has shown all it did. Not for histograms, images or text.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from itertools import count
from pathlib import Path

_DOUBLE, _VARINT, _BYTES, _FLOAT = 1, 0, 2, 5  # wire types
_MASK_DELTA = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_START = 1  # SessionLog.SessionStatus


class EventFile:
    """Scalars over steps. The file is made at the first write, and another one after a write that failed.

    Of a run that begins at `first_step` earlier files say nothing from that step on; null leaves them as they are.
    """

    def __init__(self, folder: Path, *, first_step: int | None) -> None:
        self._folder, self._first_step = folder, first_step
        self._path: Path | None = None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One point of each tag."""
        now = time.time()
        parts = [_field(1, _field(1, tag.encode()) + _float(2, value)) for tag, value in values.items()]
        self._append(_double(1, now) + _varint(2, step) + _field(5, b"".join(parts)))

    def _append(self, message: bytes) -> None:
        if self._path is None:
            self._path = self._begin()
            self._first_step = None  # said; a second file of this run is to leave the first one as it is
        try:
            with self._path.open("ab") as file:
                file.write(_record(message))
        except OSError:
            self._path = None  # its last record may be cut short, and nothing behind that would be read
            raise

    def _begin(self) -> Path:
        now = time.time()
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        path = next(free for number in count() if not (free := self._folder / f"{stem}.{number}").exists())
        begin = _record(_double(1, now) + _field(3, b"brain.Event:2"))
        if self._first_step is not None:
            begin += _record(_double(1, now) + _varint(2, self._first_step) + _field(7, _varint(1, _START)))
        path.write_bytes(begin)
        return path


def crc32c(content: bytes) -> int:
    """The checksum of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(_row(byte) for byte in range(256))


def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _masked(length) + message + _masked(message)


def _masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)


def _key(number: int, wire_type: int) -> bytes:
    return bytes([number << 3 | wire_type])


def _varint(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _encoded(value)


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _encoded(len(content)) + content


def _double(number: int, value: float) -> bytes:
    return _key(number, _DOUBLE) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    return _key(number, _FLOAT) + struct.pack("<f", value)
