"""The log of a stage process: taken from a pipe and written in rotated parts, so that nothing it prints can stop it.

A thread reads as fast as the process writes. What the disk does not take is dropped and counted, never waited for.
Passwords that the supervisor knows are blotted out.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from regraft.logparts import end_of, older_parts, part

PARTS = 4
CHUNK = 1 << 16
BLOT = b"********"


def secrets_in(*urls: str) -> list[bytes]:
    """The passwords in these URLs, as written and decoded."""
    found = {urlsplit(url).password for url in urls} - {None, ""}
    return [form.encode() for password in found if password for form in {password, unquote(password)}]


class RunLog:
    """Copies `stream` to `path` until its end; of the older parts, `part(path, begin)`, the last `PARTS` are kept."""

    def __init__(self, stream: BinaryIO, path: Path, *, max_bytes: int, secrets: Sequence[bytes] = ()) -> None:
        self._stream, self.path, self._max_bytes, self._secrets = stream, path, max_bytes, secrets
        self._file: BinaryIO | None = None
        self._size = 0
        self.dropped = 0
        """Bytes that could not be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._copy, name="stage-log", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the stream, once the process is gone."""
        self._thread.join(timeout=10)

    def tail(self, size: int = CHUNK) -> str:
        """The last `size` bytes."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - size))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _copy(self) -> None:
        rest = b""
        while chunk := os.read(self._stream.fileno(), CHUNK):
            # By whole lines, so that a secret is never cut in two; a line without end is let go at a chunk's length.
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            self._write(lines + newline)
            if len(rest) > CHUNK:
                self._write(rest)
                rest = b""
        self._write(rest)
        if self._file is not None:
            self._file.close()
        self._stream.close()

    def _write(self, text: bytes) -> None:
        for secret in self._secrets:
            text = text.replace(secret, BLOT)
        try:
            if self._file is None or self._size + len(text) > self._max_bytes:
                self._next_file()
            assert self._file is not None
            self._file.write(text)
            self._size += len(text)
        except OSError:
            self.dropped += len(text)

    def _next_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._rotate()
        self._file = self.path.open("ab", buffering=0)
        self._size = self.path.stat().st_size

    def _rotate(self) -> None:
        older = older_parts(self.path)
        self.path.replace(part(self.path, end_of(older)))
        for _, path in older[: max(0, len(older) + 1 - PARTS)]:
            path.unlink()
