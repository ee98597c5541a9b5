"""A reader of TensorBoard's event files, apart from the writer but for the checksum."""

from __future__ import annotations

import struct
from pathlib import Path

from regraft_worker.trainer.event_file import crc32c


def messages(path: Path) -> list[bytes]:
    """The messages of a TFRecord file, their checksums checked."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == _masked(content[:8])
        message = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length])[0] == _masked(message)
        found.append(message)
        content = content[16 + length :]
    return found


def _masked(content: bytes) -> int:
    crc = crc32c(content)
    return ((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


def fields(message: bytes) -> list[tuple[int, object]]:
    """Number and value of each field of a protocol buffer."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            value: object = varint()
        elif key & 7 == 2:
            size = varint()
            value, at = message[at : at + size], at + size
        else:
            shape, size = {1: ("<d", 8), 5: ("<f", 4)}[key & 7]
            (value,), at = struct.unpack(shape, message[at : at + size]), at + size
        found.append((key >> 3, value))
    return found


def points(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) to value, over all files of a folder."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for message in messages(path):
            event = dict(fields(message))
            for _, value in fields(event.get(5, b"")):  # type: ignore[arg-type]
                point = dict(fields(value))  # type: ignore[arg-type]
                found[point[1].decode(), event.get(2, 0)] = point[2]  # type: ignore[attr-defined]
    return found
