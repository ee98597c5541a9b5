"""The checksum of a storage, compared once, before the first of its values is handed out.

Whoever reads a tensor gets it checked, and a file that is only looked into (`regraft info`) is not read for it. The
price is that the bytes are gone through once more, at some GB/s and while they are in memory anyway; and one who wants
a single row waits for the whole storage.
"""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from zlib_ng import zlib_ng

from regraft_worker.conversion.containers._mapped import Mapped
from regraft_worker.conversion.containers.base import UNREADABLE, refused
from regraft_worker.conversion.lazy import BLOCK_BYTES, ReadRows


class Checksum:
    """Of bytes `begin` to `begin` + `size`: crc32, as a zip has it."""

    def __init__(self, path: Path, mapped: Mapped, *, begin: int, size: int, crc: int) -> None:
        self._path, self._mapped = path, mapped
        self._begin, self._end, self._crc = begin, begin + size, crc
        self._lock = threading.Lock()
        self._is_right = False

    def before(self, read_rows: ReadRows, *, name: str) -> ReadRows:
        """The same rows of the tensor `name`, once the storage is known to be whole."""

        def checked(start: int, stop: int) -> torch.Tensor:
            if not self._is_right:
                self._compare(name)
            return read_rows(start, stop)

        return checked

    def _compare(self, name: str) -> None:
        """Raise InvalidDataError when the bytes are others than were written."""
        with self._lock:  # several threads may want the first rows at once
            if not self._is_right and self._found() != self._crc:
                raise refused(
                    self._path, UNREADABLE, f"the values of '{name}' are damaged (the checksum is another one)"
                )
            self._is_right = True

    def _found(self) -> int:
        crc = 0
        for begin in range(self._begin, self._end, BLOCK_BYTES):
            block = self._mapped.part(begin, min(begin + BLOCK_BYTES, self._end))
            crc = zlib_ng.crc32(block.numpy(), crc)
        return crc
