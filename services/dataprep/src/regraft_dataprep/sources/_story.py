"""One TRC2 story: what lies between two </DOC> lines, as a document.

The text equals `regraft_dataprep.clean.clean_story` of the story's lines, which is tested, but only lines that hold one
of its marks are cleaned one by one; and a story whose tags are where they always are takes one pattern. The trade-off:
the rules of cleaning are here a second time, in short, for being several times faster. Not for other tag-marked files.
"""

from __future__ import annotations

import re
from datetime import datetime

from regraft_dataprep.clean import clean_line
from regraft_dataprep.document import Document

_START = re.compile(rb"^<DOC>[ \t\r]*$", re.MULTILINE)
_ID = re.compile(rb"^<DOCNO>\s*([^<\s]+)\s*</DOCNO>", re.MULTILINE)
_STAMP = re.compile(rb"^<CONTENT>\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE)
_DATE_IN_ID = re.compile(rb"TRC2-(\d{4}-\d\d-\d\d)")

_HEAD = re.compile(
    rb"(?:[ \t\r]*\n)?<DOC>[ \t\r]*\n<DOCNO>[ \t]*([^<\s]+)[ \t]*</DOCNO>[^\n]*\n<BLOGS08DAY>[^\n]*\n<CONTENT>[ \t\r]*"
    rb"(?=\n\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d))"
)
"""All of an ordinary story before its headline; none of it stays after cleaning."""
_TAIL = b"\n</CONTENT>"

_CLOSE = "Put a line </DOC> after the story, or get the whole file."
_CUT = "Cut the file after its last </DOC>."

_MARKS = (b"<", b"[", b"TRC2-", b"(Click on the Z")
"""A line without any of them loses no more than its stamp and its broken UTF-8."""
_HEADER_LINES = (b"<DOCNO>", b"<BLOGS08DAY>")
_STAMPS = re.compile(rb"\n[-0-9: ]+")
_BLANK = " \t\n\r\x0b\x0c"


class BrokenStoryError(Exception):
    """A story that is not as it should be; `message` leaves a place for the line."""

    def __init__(self, message: str, *, remedy: str, position: int) -> None:
        super().__init__(message, position)
        self.message = message
        self.remedy = remedy
        self.position = position
        """In the file, of the line that is meant."""


def document_in(segment: bytes, *, position: int) -> tuple[Document, bytes]:
    """The story before a </DOC>, and what lies before its <DOC>; `position` is that of the segment in the file.

    Raises:
        BrokenStoryError: it is not opened, opened twice, has no id or no date.
    """
    head = _HEAD.match(segment)
    moment = _parsed(head[2]) if head else None
    if not head or not moment:
        return _unusual(segment, position=position)
    body = segment[head.end() : -len(_TAIL) if segment.endswith(_TAIL) else None]
    if b"<" in body and _is_opened(body):
        raise _never_closed(position + segment.index(b"<DOC>"))
    return Document(text_of(body), head[1].decode("utf-8", "replace"), moment), b""


def check_rest(rest: bytes, *, position: int) -> None:
    """Raises BrokenStoryError when what follows the last </DOC> of a file is a story, or the file has none."""
    start = _START.search(rest)
    if start:
        raise _never_closed(position + start.start())
    if not position and rest.strip():
        raise _no_trc2()


def too_long(segment: bytes, *, position: int, limit: int) -> BrokenStoryError:
    """The error of a segment longer than any story is."""
    start = _START.search(segment)
    if start:
        message, remedy = f"the <DOC> at line {{line}} is not closed within {limit} bytes", _CLOSE
    elif position:
        message, remedy = f"after line {{line}} there are {limit} bytes without a story", _CUT
    else:
        return _no_trc2()
    return BrokenStoryError(message, remedy=remedy, position=position + (start.start() if start else 0))


def text_of(body: bytes) -> str:
    """The cleaned text of a story's lines, before each of which there is a newline."""
    cleaned = _cleaned_around(body, _marked_lines(body)) if _is_marked(body) else _STAMPS.sub(b"\n", body)
    text = cleaned.decode("utf-8", "ignore").strip("\n")
    if text and text[0] not in _BLANK and text[-1] not in _BLANK:
        return text
    return _without_blank_lines(text)


def _without_blank_lines(text: str) -> str:
    """At either end; the white space of other lines stays."""
    kept = len(text.rstrip(_BLANK))
    if not kept:
        return ""
    first, end = len(text) - len(text.lstrip(_BLANK)), text.find("\n", kept)
    return text[text.rfind("\n", 0, first) + 1 : end if end >= 0 else None]


def _is_marked(body: bytes) -> bool:
    """One by one, and a letter before its words: searching for single bytes is many times faster."""
    return b"<" in body or b"[" in body or b"TRC2-" in body or (b"Z" in body and _MARKS[-1] in body)


def _marked_lines(body: bytes) -> list[int]:
    """Where the lines begin that hold a mark."""
    starts = set()
    for mark in _MARKS:
        found = body.find(mark)
        while found >= 0:
            starts.add(body.rfind(b"\n", 0, found) + 1)
            end = body.find(b"\n", found)
            found = body.find(mark, end) if end >= 0 else -1
    return sorted(starts)


def _cleaned_around(body: bytes, marked: list[int]) -> bytes:
    pieces, done = [], 0
    for start in marked:
        end = body.find(b"\n", start)
        line = body[start : end if end >= 0 else None]
        header = line.startswith(_HEADER_LINES)  # goes with its newline
        pieces.append(_STAMPS.sub(b"\n", body[done : start - header]))
        if not header:
            pieces.append(clean_line(line))
        done = start + len(line)
    pieces.append(_STAMPS.sub(b"\n", body[done:]))
    return b"".join(pieces)


def _unusual(segment: bytes, *, position: int) -> tuple[Document, bytes]:
    start = _START.search(segment)
    if not start:
        raise BrokenStoryError(
            "the </DOC> at line {line} closes a story that was not opened",
            remedy="Put a line <DOC> before the story.",
            position=position + len(segment) + 1,
        )
    opened = position + start.start()
    body = segment[start.end() :]
    if _is_opened(body):
        raise _never_closed(opened)
    found = _ID.search(body)
    if not found:
        raise BrokenStoryError(
            "the story at line {line} has no <DOCNO>",
            remedy="Give it a line such as <DOCNO>TRC2-2008-08-10-0000</DOCNO>.",
            position=opened,
        )
    document = Document(text_of(body), found[1].decode("utf-8", "replace"), _moment(body, found[1], opened=opened))
    return document, segment[: start.start()]


def _is_opened(body: bytes) -> bool:
    """Whether there is another <DOC>. A plain search first: the pattern alone would be the slowest part of reading."""
    return b"\n<DOC>" in body and bool(_START.search(body))


def _moment(body: bytes, own_id: bytes, *, opened: int) -> datetime:
    """The headline's; the id's date when the headline has none, as in an empty story."""
    for pattern, text in ((_STAMP, body), (_DATE_IN_ID, own_id)):
        found = pattern.search(text)
        moment = _parsed(found[1]) if found else None
        if moment:
            return moment
    raise BrokenStoryError(
        f"the story at line {{line}} has no date, neither before its headline nor in its id {own_id!r}",
        remedy="Start the headline with 'YYYY-MM-DD hh:mm:ss', or give it an id such as TRC2-2008-08-10-0000.",
        position=opened,
    )


def _parsed(text: bytes) -> datetime | None:
    try:
        return datetime.fromisoformat(text.decode("ascii"))
    except ValueError:
        return None


def _never_closed(position: int) -> BrokenStoryError:
    return BrokenStoryError("the <DOC> at line {line} is never closed", remedy=_CLOSE, position=position)


def _no_trc2() -> BrokenStoryError:
    return BrokenStoryError(
        "this is not a TRC2 file: it has no line <DOC>",
        remedy="Name the tag-marked TRC2 file as it was delivered (not cleaned), or another source.",
        position=0,
    )
