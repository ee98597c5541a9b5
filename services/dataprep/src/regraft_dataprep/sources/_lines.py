"""Lines of a part of a file: those whose first byte lies in it.

So each line belongs to one part, however a file is cut, and one that is longer than a part to the part it begins in.
The trade-off: a part reads a little of its neighbours, to its first line's begin and to its last line's end. Not for
formats whose records span lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from regraft_dataprep.sources.base import Part

BOM = b"\xef\xbb\xbf"
_BLOCK_BYTES = 2**20


def first_line(stream: BinaryIO, part: Part) -> int:
    """Go to the first line that begins in the part; its position, `part.stop` when there is none."""
    if not part.start:
        return 0
    position = stream.seek(part.start - 1)  # when this byte is a newline, a line begins with the part
    while position < part.stop and (piece := stream.readline(min(_BLOCK_BYTES, part.stop - position))):
        position += len(piece)
        if piece.endswith(b"\n"):
            return position
    return part.stop


def lines(stream: BinaryIO, *, position: int, stop: int, limit: int) -> Iterator[bytes]:
    """Lines from `position`, where the stream is, up to the last one that begins before `stop`.

    Of one that is longer than `limit` only its beginning, which is still longer than the limit.
    """
    readline = stream.readline
    while position < stop and (line := readline(limit + 1)):
        position += len(line)
        if len(line) > limit:
            position += _skip_rest(stream, line, limit=limit)
        yield line


def _skip_rest(stream: BinaryIO, line: bytes, *, limit: int) -> int:
    """To the end of a line of which a piece was read; how many bytes it is away."""
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = stream.readline(limit + 1)
        skipped += len(line)
    return skipped
