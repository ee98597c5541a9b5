"""TRC2, the Thomson Reuters Text Research Collection, as `TRC2-headlines-docs-TRECBLOG.v2`: 1.8 M stories, 2.9 GB.

A tag-marked text file, each tag on a line of its own or around one value:

    <DOC>
    <DOCNO>TRC2-2008-08-10-0000</DOCNO>
    <BLOGS08DAY>295</BLOGS08DAY>
    <CONTENT>
    2008-08-10 14:07:45 Headline

    text ...
    </CONTENT>
    </DOC>

The file is cut at `</DOC>` lines in large blocks, not read line by line, which is several times faster. What lies
between two of them belongs to the part of the file that its first byte lies in. Memory: a block and a story. With
`reading.documents: shard` documents are shards of lines instead (`_shards`). Not for other SGML or XML: entities,
attributes and nesting are not understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.clean import ESCAPED
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import FIELD, File, Uris
from regraft_dataprep.sources._shards import shards, spans
from regraft_dataprep.sources._story import BrokenStoryError, check_rest, document_in, never_closed, opened_in, too_long
from regraft_dataprep.sources.base import BadRecord, Part, Source, Span, by_bytes

_BLOCK_BYTES = 4 * 2**20
_AHEAD_BYTES = 2**16
"""Read at first beyond the end of a part, for the rest of a story."""
_MAX_STORY_BYTES = 64 * 2**20  # the longest real stories have a few hundred kB

_END = b"\n</DOC>"


class Trc2Source(Source):
    """The corpus in TRC2 files."""

    suffixes = (".trc2", ".v2", ".trc2.gz", ".v2.gz", ".trc2.zst", ".v2.zst")

    def spans(self, file: File, *, part_bytes: int) -> list[Span]:
        if not self._in_shards or not file.plain:
            return by_bytes(file, part_bytes=part_bytes)
        with self._naming(self.files.index(file)), file.open() as stream:
            return spans(stream, lines=self.reading.lines_per_shard, part_bytes=part_bytes)

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        """A story that is not as it should be is an error, unless some may be: then it is a bad record."""
        with self._naming(part.file), self.files[part.file].open() as stream:
            yield from (self._shards if self._in_shards else self._stories)(stream, part)

    @property
    def _in_shards(self) -> bool:
        return self.reading.documents == "shard"

    def _stories(self, stream: BinaryIO, part: Part) -> Iterator[Document | BadRecord]:
        first, lines = None, 0
        for position, segment, closed in _segments(stream, part):
            first = position if first is None else first
            if not closed:
                check_rest(segment, position=position)
                self._pass_over(segment)
                return
            try:
                yield self._story(segment, position=position)
            except BrokenStoryError as error:
                if not self.reading.max_bad_records:
                    raise
                before = self.lines_before(part.file, first) + lines
                yield from self._broken(part.file, segment, error, position=position, lines=before)
            lines += segment.count(b"\n") + 1

    def _story(self, segment: bytes, *, position: int) -> Document:
        document, outside = document_in(segment, position=position, raw=self.raw)
        self._pass_over(outside)
        return document

    def _broken(
        self, file: int, segment: bytes, error: BrokenStoryError, *, position: int, lines: int
    ) -> Iterator[Document | BadRecord]:
        """What lies before a </DOC> that is no story: others that were never closed, perhaps, and then one."""

        def bad(error: BrokenStoryError) -> BadRecord:
            return BadRecord(name, lines + 1 + closed.count(b"\n", 0, error.position - position), error.cause)

        name, closed, opened = self.files[file].name, segment + _END, opened_in(segment)
        self._pass_over(segment[: opened[0]] if opened else b"")
        for start in opened[:-1]:
            yield bad(never_closed(position + start))
        if len(opened) > 1:
            try:
                yield self._story(segment[opened[-1] :], position=position + opened[-1])
                return
            except BrokenStoryError as of_the_last:
                error = of_the_last
        yield bad(error)

    def _shards(self, stream: BinaryIO, part: Part) -> Iterator[Document]:
        for shard in shards(stream, part, lines=self.reading.lines_per_shard):
            if shard.lost:
                self._pass_over(shard.content)
            else:
                yield Document(shard.content.decode(errors=ESCAPED))

    def _pass_over(self, outside: bytes) -> None:
        if outside:
            self.stray_lines += sum(1 for line in outside.split(b"\n") if line.strip())

    @contextmanager
    def _naming(self, file: int) -> Iterator[None]:
        """Errors name the file and the line; lines are not counted before there is one."""
        try:
            yield
        except BrokenStoryError as error:
            line = self.lines_before(file, error.position) + 1
            raise InvalidDataError(
                error.message.replace("{line}", str(line)),
                field=FIELD,
                value=self.files[file].uri,
                remedy=error.remedy,
                reason="corpus_malformed",
            ) from error


def in_effect(reading: ReadingSpec) -> ReadingSpec:
    """What this source uses of it."""
    if reading.documents != "shard":
        return ReadingSpec()
    return ReadingSpec(documents=reading.documents, lines_per_shard=reading.lines_per_shard)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return Trc2Source(uri, reading=reading)


def _segments(stream: BinaryIO, part: Part) -> Iterator[tuple[int, bytes, bool]]:
    """What lies before each </DOC>, with its position; at the end of the file what is left, with False."""
    begin = read = _first_segment(stream, part)
    rest = b""
    while begin < part.stop:
        block = stream.read(min(_BLOCK_BYTES, max(part.stop - read, _AHEAD_BYTES, len(rest))))
        if not block:
            yield begin, rest, False
            return
        read += len(block)
        *segments, rest = (rest + block).split(_END)
        for segment in segments:
            if begin >= part.stop:
                return
            if len(segment) > _MAX_STORY_BYTES:
                raise too_long(segment, position=begin, limit=_MAX_STORY_BYTES)
            yield begin, segment, True
            begin += len(segment) + len(_END)
        if len(rest) > _MAX_STORY_BYTES and begin < part.stop:
            raise too_long(rest, position=begin, limit=_MAX_STORY_BYTES)


def _first_segment(stream: BinaryIO, part: Part) -> int:
    """Go to the first segment that begins in the part; its position, `part.stop` when there is none."""
    if not part.start:
        return 0
    position = stream.seek(max(part.start - len(_END), 0))
    held = b""
    while position < part.stop and (block := stream.read(min(_AHEAD_BYTES, part.stop - position))):
        position += len(block)
        held += block
        found = held.find(_END)
        if found >= 0:
            return stream.seek(position - len(held) + found + len(_END))
        held = held[1 - len(_END) :]
    return part.stop
