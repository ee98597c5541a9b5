"""The output of one attempt as one text, however many files it was rotated into.

The worker writes it to its own disk, so it can be read where that folder is mounted, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from regraft.logparts import older_parts
from regraft.settings import Settings

CHUNK = 1 << 16
LONGEST_LINE = 1 << 16  # bytes; the rest of a longer one counts as a line of its own


class AttemptLog:
    """Positions are bytes from the first that was written, and stay what they are when the oldest part is dropped."""

    def __init__(self, settings: Settings, *, job_id: str, stage: str, attempt: int) -> None:
        self._newest = settings.log_folder / job_id / f"{stage}-{attempt}.log"

    def exists(self) -> bool:
        """Whether anything of it is here."""
        return self._newest.is_file() or bool(older_parts(self._newest))

    def kept(self) -> tuple[int, int]:
        """The position of the oldest byte that is kept, and the one after the newest, which is how many there were."""
        with self._opened() as parts:
            return (parts[0].begin, parts[-1].end) if parts else (0, 0)

    def read(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The bytes from `start` up to `end`, in chunks, each with its position.

        When `start` is no longer kept, the first chunk is the oldest that is.
        """
        with self._opened() as parts:
            for part in parts:
                yield from _read(part, max(start, part.begin), min(end, part.end))

    def text(self, start: int, end: int) -> Iterator[bytes]:
        """The same without the positions."""
        return (chunk for _, chunk in self.read(start, end))

    def lines(self, start: int) -> Iterator[tuple[int, str]]:
        """Whole lines that begin at `start` or later, each with the position after it."""
        rest, at = b"", start
        for begin, chunk in self.read(start, self.kept()[1]):
            at = begin - len(rest)  # other than it was only where the first chunk begins later than asked
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

    @contextmanager
    def _opened(self) -> Iterator[list[_Part]]:
        """All parts of one moment, the oldest first; open, so that they can be read even when they are dropped."""
        with ExitStack() as files:
            while True:
                older = older_parts(self._newest)
                paths = [*(path for _, path in older), self._newest]
                opened = [files.enter_context(file) for path in paths if (file := _open(path)) is not None]
                if older == older_parts(self._newest):
                    break
                files.close()  # one was rotated meanwhile, so the newest may be another than it was
            yield _parts([begin for begin, _ in older], opened)


@dataclass(frozen=True)
class _Part:
    """A file of the log, open."""

    begin: int
    """Position of its first byte."""
    end: int
    file: BinaryIO


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _parts(begins: Sequence[int], opened: Sequence[BinaryIO]) -> list[_Part]:
    """Where they are: the older ones begin where their names say, the newest after them."""
    parts: list[_Part] = []
    for i, file in enumerate(opened):
        begin = begins[i] if i < len(begins) else (parts[-1].end if parts else 0)
        parts.append(_Part(begin, begin + os.fstat(file.fileno()).st_size, file))
    return parts


def _read(part: _Part, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    part.file.seek(max(0, start - part.begin))
    while start < end and (chunk := part.file.read(min(CHUNK, end - start))):
        yield start, chunk
        start += len(chunk)
