"""The output of one attempt as one text, however many files it was rotated into.

The worker writes it to its own disk, so it can be read where that folder is mounted, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from regraft.settings import Settings

CHUNK = 1 << 16
LONGEST_LINE = 1 << 16  # bytes; the rest of a longer one counts as a line of its own


class AttemptLog:
    """Positions are bytes from the oldest one that is kept."""

    def __init__(self, settings: Settings, *, job_id: str, stage: str, attempt: int) -> None:
        self._newest = settings.log_folder / job_id / f"{stage}-{attempt}.log"

    def exists(self) -> bool:
        """Whether anything of it is here."""
        return bool(self._parts())

    def size(self) -> int:
        """Bytes."""
        return sum(path.stat().st_size for path in self._parts())

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, in chunks."""
        begin = 0
        for path in self._parts():
            size = path.stat().st_size
            yield from _read(path, max(0, start - begin), min(size, end - begin))
            begin += size

    def lines(self, start: int) -> Iterator[tuple[int, str]]:
        """Whole lines that begin at `start` or later, each with the position after it."""
        rest, at = b"", start
        for chunk in self.read(start, self.size()):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                at += len(line) + 1
                yield at, line.decode("utf-8", "replace").rstrip("\r")
            if len(rest) > LONGEST_LINE:
                at += len(rest)
                yield at, rest.decode("utf-8", "replace")
                rest = b""
        if rest:
            yield at + len(rest), rest.decode("utf-8", "replace")

    def _parts(self) -> list[Path]:
        """The oldest first: `x.log.2`, `x.log.1`, `x.log`."""
        older = [
            path
            for path in self._newest.parent.glob(f"{self._newest.name}.*")
            if path.suffix[1:].isdecimal() and path.is_file()
        ]
        older.sort(key=lambda path: -int(path.suffix[1:]))
        return [*older, *([self._newest] if self._newest.is_file() else [])]


def _read(path: Path, start: int, end: int) -> Iterator[bytes]:
    if start >= end:
        return
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk
