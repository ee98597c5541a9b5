"""The parts that a log is rotated into: `x.log` is the newest; the name of an older one says where it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def part(path: Path, begin: int) -> Path:
    """Where a log's older part is whose first byte is the log's byte `begin`.

    Its name says so, so that it stays true when parts before it are dropped, and wherever a worker is killed.
    """
    return path.with_name(f"{path.name}.{begin:015}")


def older_parts(path: Path) -> list[tuple[int, Path]]:
    """The older parts of a log that are kept and where they begin, the oldest first."""
    found = [older for older in path.parent.glob(f"{path.name}.*") if older.suffix[1:].isdecimal()]
    return sorted((int(older.suffix[1:]), older) for older in found)


def end_of(older: Sequence[tuple[int, Path]]) -> int:
    """Where the newest part begins."""
    if not older:
        return 0
    begin, last = older[-1]
    return begin + last.stat().st_size
