"""Where everything stands in a zip archive as torch writes it, known before the first byte of data is.

Entries are stored; each one's data starts at a multiple of 64 bytes, reached with a padding field `FB` in its header;
checksums follow the data, so that nothing has to be patched; entries and offsets of 4 GB and more have zip64 fields.
Byte for byte torch's own layout, because its reader may compute offsets instead of reading them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
_LIMIT = 0xFFFFFFFF
_NAMES_IN_UTF8 = 0x0800
_CHECKSUM_AFTER_DATA = 0x0008
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR_64 = struct.Struct("<4sIQI")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive."""

    name: str
    size: int
    at: int
    """Of its header, in the archive."""

    @property
    def header(self) -> bytes:
        """What stands before the data."""
        name, extra = self.name.encode(), self._extra
        start = self.at + _LOCAL.size + len(name) + len(extra) + 4
        padding = -start % ALIGNMENT
        extra += b"FB" + struct.pack("<H", padding) + b"Z" * padding
        return _LOCAL.pack(b"PK\x03\x04", 0, self._flags, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra

    @property
    def data_at(self) -> int:
        return self.at + len(self.header)

    @property
    def end(self) -> int:
        return self.data_at + self.size + len(self.trailer(0))

    @property
    def is_large(self) -> bool:
        return self.size >= _LIMIT or self.at >= _LIMIT

    def trailer(self, crc32: int) -> bytes:
        """What stands after the data; of none, nothing."""
        if not self.size:
            return b""
        sizes = "QQ" if self.is_large else "II"
        return struct.pack("<4sI" + sizes, b"PK\x07\x08", crc32, self.size, self.size)

    def central(self, crc32: int) -> bytes:
        """Its record in the directory at the end."""
        name, extra = self.name.encode(), self._extra
        size, at = min(self.size, _LIMIT), min(self.at, _LIMIT)
        return (
            _CENTRAL.pack(
                *(b"PK\x01\x02", 0, 0, self._flags, 0, 0, 0, crc32, size, size),
                *(len(name), len(extra), 0, 0, 0, 0, at),
            )
            + name
            + extra
        )

    @property
    def _flags(self) -> int:
        return _NAMES_IN_UTF8 | (_CHECKSUM_AFTER_DATA if self.size else 0)

    @property
    def _extra(self) -> bytes:
        """The fields for what does not fit into 32 bits."""
        numbers = [self.size, self.size] if self.size >= _LIMIT else []
        numbers += [self.at] if self.at >= _LIMIT else []
        return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def lay_out(files: Iterable[tuple[str, int]]) -> list[Entry]:
    """Names and sizes, one entry after the other."""
    entries: list[Entry] = []
    for name, size in files:
        entries.append(Entry(name, size, entries[-1].end if entries else 0))
    return entries


def directory(entries: Sequence[Entry], crc32s: Sequence[int]) -> bytes:
    """What stands after the last entry; its length does not depend on the checksums."""
    records = b"".join(entry.central(crc32) for entry, crc32 in zip(entries, crc32s, strict=True))
    start, count = entries[-1].end, len(entries)
    end = _END_64.pack(b"PK\x06\x06", 44, 0x031E, 0x2D, 0, 0, count, count, len(records), start)
    end += _LOCATOR_64.pack(b"PK\x06\x07", 0, start + len(records), 1)
    few, offset = min(count, 0xFFFF), min(start, _LIMIT)
    return records + end + _END.pack(b"PK\x05\x06", 0, 0, few, few, len(records), offset, 0)
