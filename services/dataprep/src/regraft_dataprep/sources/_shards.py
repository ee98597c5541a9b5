"""TRC2 in shards: so many lines of the file, as the documented split cuts them, whatever its stories are.

Lines are counted as the original counts them: after cleaning, and in Python's text mode, where a carriage return ends a
line as well. The last shard, full or not, is in no document, because the original loses it. The trade-off: to cut a
file into parts its lines have to be counted, a pass over it in every process. A shard that would end at a carriage
return within a line is refused: the two halves of a line cannot be cleaned as the whole is. Not for new work: stories
are cut in two, and have no dates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from regraft_dataprep.clean import clean_lines
from regraft_dataprep.sources._story import BrokenStoryError
from regraft_dataprep.sources.base import Part, Span

_BLOCK_BYTES = 4 * 2**20
_MAX_SHARD_BYTES = 64 * 2**20  # 10,000 lines of TRC2 have about one
_NEWLINE, _RETURN = b"\n\r"


class Shard(NamedTuple):
    """Lines that follow one another."""

    position: int
    """Of its first byte in the file."""
    content: bytes
    lost: bool
    """It is the last one of the file."""


def shards(stream: BinaryIO, part: Part, *, lines: int) -> Iterator[Shard]:
    """The shards of a part, which begins with one; at the end of the file the one that is lost.

    Raises:
        BrokenStoryError: a shard would end within a line, or is too long.
    """
    begin = position = stream.seek(part.start) if part.start else 0
    held = b""
    while block := stream.read(min(_BLOCK_BYTES, part.stop - position)):
        position += len(block)
        held += block
        ends = _ends(held, begin, lines=lines)
        if ends and ends[-1] == len(held) and position < part.stop:
            ends.pop()  # whether anything follows, so that it is not the last one, is not known yet
        for start, end in zip([0, *ends], ends, strict=False):
            yield Shard(begin + start, held[start:end], lost=False)
        begin, held = (begin + ends[-1], held[ends[-1] :]) if ends else (begin, held)
        if len(held) > _MAX_SHARD_BYTES:
            raise _too_long(begin)
    if part.end is None:
        _ends(held + b"\n", begin, lines=lines)  # a line need not be closed for a shard to end in it
        yield Shard(begin, held, lost=True)


def spans(stream: BinaryIO, *, lines: int, part_bytes: int) -> list[Span]:
    """Parts of about `part_bytes`, cut where shards begin."""
    starts = [0]
    for shard in shards(stream, Part(0), lines=lines):
        if shard.position >= starts[-1] + part_bytes:
            starts.append(shard.position)
    return list(zip(starts, [*starts[1:], None], strict=True))


def _ends(held: bytes, position: int, *, lines: int) -> list[int]:
    """Where the shards end of which `held` has all lines; it begins with one, at `position` in the file."""
    values = np.frombuffer(held, dtype=np.uint8)
    newlines = np.flatnonzero(values == _NEWLINE)
    counted = np.cumsum(_line_ends(held, values, newlines))
    last = np.flatnonzero(np.diff(counted // lines, prepend=0))
    within = last[counted[last] % lines != 0]
    if len(within):
        raise _ends_within(position + int(newlines[within[0]]))
    return [int(newline) + 1 for newline in newlines[last]]


def _line_ends(held: bytes, values: npt.NDArray[np.uint8], newlines: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each newline the lines that end with it or since the one before: more than one where returns stay."""
    counts = np.ones(len(newlines), dtype=np.int64)
    if b"\r" not in held or not len(newlines):
        return counts
    returns = np.flatnonzero(values[: newlines[-1]] == _RETURN)
    for line in np.unique(np.searchsorted(newlines, returns[values[returns + 1] != _NEWLINE])):
        start = int(newlines[line - 1]) + 1 if line else 0
        cleaned = clean_lines(held[start : int(newlines[line]) + 1])
        counts[line] = cleaned.count(b"\r") + cleaned.count(b"\n") - cleaned.count(b"\r\n")
    return counts


def _ends_within(position: int) -> BrokenStoryError:
    return BrokenStoryError(
        "a shard would end at a carriage return within line {line}",
        remedy="Take another number of lines_per_shard, turn the file's carriage returns into newlines, or take the "
        "drop-in commands.",
        position=position,
    )


def _too_long(position: int) -> BrokenStoryError:
    return BrokenStoryError(
        f"the shard at line {{line}} has more than {_MAX_SHARD_BYTES} bytes",
        remedy="Take fewer lines_per_shard.",
        position=position,
    )
