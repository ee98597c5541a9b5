"""Which tensors of an unfinished file are whole, remembered beside it, so that one cut short is gone on with.

A tensor counts when its bytes in the file still have the sha256 that they were written with; they are read once to know
that. So nothing needs to be on the disk before its line is: a power failure that lost one and kept the other shows.
A line that is half written, a file of another size and a journal of another plan are void.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import NamedTuple

_SUFFIX = ".journal"


class Sums(NamedTuple):
    """Of the raw little-endian bytes of a tensor."""

    sha256: str
    crc32: int = 0
    """0 where the encoding has none."""


class Journal:
    """Of the file `partial`, written for `plan`: whatever decides its bytes."""

    def __init__(self, partial: Path, *, plan: str) -> None:
        self.partial = partial
        self.kept: dict[str, int] = {}
        """Bytes of each tensor that was there and right."""
        self._plan = plan
        self._path = partial.with_name(partial.name + _SUFFIX)
        self._found: dict[tuple[str, int, int], Sums] = {}
        self._lock = threading.Lock()

    def begin(self, size: int) -> None:
        """Go on with the file of so many bytes, when that is there and of this plan; else remove it and begin anew."""
        head = json.dumps({"plan": self._plan, "size": size})
        lines = _whole_lines(self._path)
        if lines[:1] != [head] or not self.partial.exists() or self.partial.stat().st_size != size:
            self.partial.unlink(missing_ok=True)
            lines = [head]
        self._path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        for line in lines[1:]:
            name, at, count, *sums = json.loads(line)
            self._found[name, at, count] = Sums(*sums)

    def find(self, name: str, at: int, count: int) -> Sums | None:
        """What the `count` bytes from byte `at` on were when this tensor was written there."""
        return self._found.get((name, at, count))

    def add(self, name: str, at: int, count: int, sums: Sums) -> None:
        """One more tensor is whole. May be called by several threads."""
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, at, count, *sums]) + "\n")

    def keep(self, name: str, count: int) -> None:
        """A tensor of an earlier run need not be written again."""
        self.kept[name] = count

    def remove(self) -> None:
        """The file has its name, or nobody wants it any more."""
        self._path.unlink(missing_ok=True)


def holds_tensors(folder: Path) -> bool:
    """Whether there is an unfinished file anywhere below with a tensor in it that is whole."""
    return any(len(_whole_lines(path)) > 1 for path in folder.rglob(f"*{_SUFFIX}"))


def _whole_lines(path: Path) -> list[str]:
    """Up to the first that is not JSON; nothing when there is no file."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else ():
        try:
            json.loads(line)
        except ValueError:
            break
        lines.append(line)
    return lines
