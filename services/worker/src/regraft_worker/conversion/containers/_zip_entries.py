"""Where the parts of a torch zip file lie.

A checkpoint's zip is plain: every part stored as it is, one after the other without a gap from the first byte to the
table at the end. Anything else is refused, and with it whatever is hidden, doubled, overlapping or packed.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import NamedTuple

from regraft_worker.conversion.containers._report import UNREADABLE, UNSAFE, UNSUPPORTED, Refusal, shown

MAX_PICKLE_BYTES = 64 * 2**20
_LOCAL_BYTES = 30
_NAME_BYTES = slice(26, 28)
_EXTRA_BYTES = slice(28, 30)
_HAS_DESCRIPTOR = 0x08
_ENCRYPTED = 0x01
_DESCRIPTOR = b"PK\x07\x08"
_DESCRIPTOR_BYTES = (16, 24)


class Part(NamedTuple):
    """The bytes of one entry."""

    begin: int
    size: int
    crc: int


def parts(descriptor: int) -> dict[str, Part]:
    """Name to place of every entry, without the folder they all lie in.

    Raises:
        Refusal: it is no plain torch zip.
    """
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file, zipfile.ZipFile(file) as archive:
            infos, table = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise Refusal(UNREADABLE, f"it is no whole zip file ({error})") from error
    root = _root([info.filename for info in infos])
    infos.sort(key=lambda info: info.header_offset)
    found: dict[str, Part] = {}
    reached = 0
    for info, after in zip(infos, [*(info.header_offset for info in infos[1:]), table], strict=True):
        part = _part(descriptor, info, reached)
        _check_end(descriptor, info, part, after)
        found[info.filename.removeprefix(root)] = part
        reached = after
    return found


def content(descriptor: int, part: Part) -> bytes:
    """The bytes of a small part."""
    if part.size > MAX_PICKLE_BYTES:
        raise Refusal(UNSAFE, f"its pickle has {part.size} bytes, more than {MAX_PICKLE_BYTES}")
    found = os.pread(descriptor, part.size, part.begin)
    # torch can be told to leave checksums out; it then writes 0.
    if len(found) != part.size or part.crc not in (0, zlib.crc32(found)):
        raise Refusal(UNREADABLE, "its pickle is damaged (the checksum is another one)")
    return found


def _root(names: list[str]) -> str:
    if len(set(names)) != len(names):
        raise Refusal(UNREADABLE, "two entries of the zip file have one name")
    roots = {name.partition("/")[0] + "/" for name in names}
    if len(roots) != 1 or f"{min(roots)}data.pkl" not in names:
        raise Refusal(UNSUPPORTED, "it is a zip file, but not one that torch.save wrote (no data.pkl in one folder)")
    return roots.pop()


def _part(descriptor: int, info: zipfile.ZipInfo, reached: int) -> Part:
    what = shown(info.filename)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise Refusal(UNSAFE, f"its entry {what} is compressed, which torch never does")
    if info.flag_bits & _ENCRYPTED:
        raise Refusal(UNSUPPORTED, f"its entry {what} is encrypted")
    if info.header_offset != reached:
        raise Refusal(UNSAFE, f"its entry {what} begins at byte {info.header_offset}, not at {reached}")
    local = os.pread(descriptor, _LOCAL_BYTES, reached)
    if len(local) < _LOCAL_BYTES or not local.startswith(b"PK\x03\x04"):
        raise Refusal(UNREADABLE, f"its entry {what} is not where the table says")
    length = int.from_bytes(local[_NAME_BYTES], "little")
    name = os.pread(descriptor, length, reached + _LOCAL_BYTES)
    if name.decode("utf-8", "replace") != info.orig_filename:
        raise Refusal(UNREADABLE, f"its entry {what} has another name in the table")
    begin = reached + _LOCAL_BYTES + length + int.from_bytes(local[_EXTRA_BYTES], "little")
    return Part(begin, info.file_size, info.CRC)


def _check_end(descriptor: int, info: zipfile.ZipInfo, part: Part, after: int) -> None:
    end = part.begin + part.size
    if info.flag_bits & _HAS_DESCRIPTOR and after - end in _DESCRIPTOR_BYTES:
        if os.pread(descriptor, 8, end) == _DESCRIPTOR + info.CRC.to_bytes(4, "little"):
            return
    elif after == end:
        return
    raise Refusal(UNSAFE, f"its entry {shown(info.filename)} does not fill the bytes up to the next one at {after}")
