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

The file is cut at `</DOC>` lines in large blocks, not read line by line, which makes the scan several times faster.
Memory: a block and a story. Not for other SGML or XML: entities, attributes and nesting are not understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.clean import clean_story, has_text
from regraft_dataprep.document import Document
from regraft_dataprep.sources._columns import Facts
from regraft_dataprep.sources._files import FIELD, File, Uris
from regraft_dataprep.sources.base import Source

_BLOCK_BYTES = 4 * 2**20
_MAX_STORY_BYTES = 64 * 2**20  # the longest real stories have a few hundred kB

_END = b"\n</DOC>"
_START = re.compile(rb"^<DOC>[ \t\r]*$", re.MULTILINE)
_ID = re.compile(rb"^<DOCNO>\s*([^<\s]+)\s*</DOCNO>", re.MULTILINE)
_STAMP = re.compile(rb"^<CONTENT>\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE)
_DATE_IN_ID = re.compile(rb"TRC2-(\d{4}-\d\d-\d\d)")


@dataclass(frozen=True, slots=True)
class _Story:
    """One story as it stands in the file."""

    line: int
    """Number of its <DOC> line."""
    id: bytes
    body: bytes
    """Everything between <DOC> and </DOC>."""

    def lines(self) -> list[bytes]:
        return self.body.split(b"\n")

    def timestamp(self) -> datetime:
        """The headline's; the id's date when the headline has none, as in an empty story."""
        for pattern, text in ((_STAMP, self.body), (_DATE_IN_ID, self.id)):
            found = pattern.search(text)
            moment = _parsed(found[1].decode("ascii")) if found else None
            if moment:
                return moment
        raise _broken(
            f"the story at line {self.line} has no date, neither before its headline nor in its id {self.id!r}",
            remedy="Start the headline with 'YYYY-MM-DD hh:mm:ss', or give it an id such as TRC2-2008-08-10-0000.",
        )


class Trc2Source(Source):
    """The corpus in TRC2 files."""

    suffixes = (".trc2", ".v2", ".trc2.gz", ".v2.gz", ".trc2.zst", ".v2.zst")

    def facts(self, file: File) -> Iterator[Facts]:
        """Faster than by whole documents: cleaning stops at the first line that is left."""
        with _naming(file):
            for story in self._stories(file):
                yield Facts(story.timestamp(), story.id, has_text(story.lines()))

    def read_file(self, file: File) -> Iterator[Document]:
        """A story that is not as it should be is an error, never a bad record: what follows could not be trusted."""
        with _naming(file):
            for story in self._stories(file):
                metadata = {"timestamp": story.timestamp().isoformat()}
                yield Document(clean_story(story.lines()), story.id.decode("utf-8", "replace"), metadata)

    def _stories(self, file: File) -> Iterator[_Story]:
        tally = _Tally()
        with file.open() as stream:
            yield from _stories(stream, tally)
        self.stray_lines += tally.stray_lines


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return Trc2Source(uri, reading=reading)


@contextmanager
def _naming(file: File) -> Iterator[None]:
    """Errors name the file beside the line."""
    try:
        yield
    except InvalidDataError as error:
        error.value = error.value or file.uri
        raise


@dataclass(slots=True)
class _Tally:
    """What a pass over a file learns besides its stories."""

    stray_lines: int = 0


def _stories(stream: BinaryIO, tally: _Tally) -> Iterator[_Story]:
    """All stories in file order."""
    line, count, rest = 1, 0, b""
    while block := stream.read(_BLOCK_BYTES):
        *parts, rest = (rest + block).split(_END)
        for part in parts:
            yield _parse(part, line=line, tally=tally)
            count += 1
            line += part.count(b"\n") + 1
        if len(rest) > _MAX_STORY_BYTES:
            raise _unfinished(rest, line=line, count=count)
    if _START.search(rest) or (not count and rest.strip()):
        raise _unfinished(rest, line=line, count=count)
    tally.stray_lines += _lines_with_text(rest)


def _parse(part: bytes, *, line: int, tally: _Tally) -> _Story:
    """One story from the text between two </DOC>; `line` is the number of that text's first line."""
    start = _START.search(part)
    if not start:
        raise _broken(
            f"the </DOC> at line {_line_at(part, len(part), first=line) + 1} closes a story that was not opened",
            remedy="Put a line <DOC> before the story.",
        )
    opened = _line_at(part, start.start(), first=line)
    # A plain search first: the pattern over whole stories would be the slowest part of a scan.
    if part.find(b"\n<DOC>", start.end()) >= 0 and _START.search(part, start.end()):
        raise _never_closed(opened)
    tally.stray_lines += _lines_with_text(part[: start.start()])
    body = part[start.end() :]
    return _Story(opened, _document_id(body, line=opened), body)


def _document_id(body: bytes, *, line: int) -> bytes:
    found = _ID.search(body)
    if not found:
        raise _broken(
            f"the story at line {line} has no <DOCNO>",
            remedy="Give it a line such as <DOCNO>TRC2-2008-08-10-0000</DOCNO>.",
        )
    return found[1]


def _line_at(text: bytes, position: int, *, first: int) -> int:
    return first + text.count(b"\n", 0, position)


def _lines_with_text(text: bytes) -> int:
    return sum(1 for line in text.split(b"\n") if line.strip())


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _unfinished(rest: bytes, *, line: int, count: int) -> InvalidDataError:
    start = _START.search(rest)
    if start:
        return _never_closed(_line_at(rest, start.start(), first=line))
    if count:
        return _broken(
            f"after line {line} there are {_MAX_STORY_BYTES} bytes without a story",
            remedy="Cut the file after its last </DOC>.",
        )
    return _broken(
        f"this is not a TRC2 file: no line <DOC> in its first {len(rest)} bytes, from line {line} on",
        remedy="Name the tag-marked TRC2 file as it was delivered (not cleaned), or another source.",
    )


def _never_closed(line: int) -> InvalidDataError:
    return _broken(
        f"the <DOC> at line {line} is never closed", remedy="Put a line </DOC> after the story, or get the whole file."
    )


def _broken(message: str, *, remedy: str) -> InvalidDataError:
    return InvalidDataError(message, field=FIELD, remedy=remedy, reason="corpus_malformed")
