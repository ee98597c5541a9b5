"""One TRC2 story: what lies between two </DOC> lines, as a document.

Its text is cleaned here, unless it is asked for as it lies in the file, for the steps of a dataset to clean. A story
whose tags are where they always are takes one pattern. Not for other tag-marked files.
"""

from __future__ import annotations

import re
from datetime import datetime

from regraft_dataprep.clean import ESCAPED, clean_story
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

_HEADERS = (b"\n<DOCNO>", b"\n<BLOGS08DAY>")
_HEADER_LINES = re.compile(rb"\n<(?:DOCNO|BLOGS08DAY)>[^\n]*")


class BrokenStoryError(Exception):
    """A story that is not as it should be; `message` leaves a place for the line."""

    def __init__(self, message: str, *, remedy: str, position: int) -> None:
        super().__init__(message, position)
        self.message = message
        self.remedy = remedy
        self.position = position
        """In the file, of the line that is meant."""

    @property
    def cause(self) -> str:
        """For a bad record, whose line is told beside it."""
        return self.message.replace(" at line {line}", "")


def document_in(segment: bytes, *, position: int, raw: bool = False) -> tuple[Document, bytes]:
    """The story before a </DOC>, and what lies before its <DOC>; `position` is that of the segment in the file.

    `raw`: its text is not cleaned.

    Raises:
        BrokenStoryError: it is not opened, opened twice, has no id or no date.
    """
    head = _HEAD.match(segment)
    moment = _parsed(head[2]) if head else None
    if not head or not moment:
        return _unusual(segment, position=position, raw=raw)
    body = segment[head.end() : -len(_TAIL) if segment.endswith(_TAIL) else None]
    if b"<" in body and _is_opened(body):
        raise never_closed(position + segment.index(b"<DOC>"))
    return Document(text_of(body, raw=raw), head[1].decode("utf-8", "replace"), moment), b""


def opened_in(segment: bytes) -> list[int]:
    """Where stories are opened before a </DOC>: all but the last one are never closed."""
    return [found.start() for found in _START.finditer(segment)]


def check_rest(rest: bytes, *, position: int) -> None:
    """Raises BrokenStoryError when what follows the last </DOC> of a file is a story, or the file has none."""
    start = _START.search(rest)
    if start:
        raise never_closed(position + start.start())
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


def text_of(body: bytes, *, raw: bool = False) -> str:
    """The text of a story's lines, before each of which there is a newline; without its id and its day.

    `raw`: as it lies in the file, with bytes that are no UTF-8 held by surrogates.
    """
    if _HEADERS[0] in body or _HEADERS[1] in body:  # no loop: this is done for every story
        body = _HEADER_LINES.sub(b"", body)
    return body[1:].decode(errors=ESCAPED) if raw else clean_story(body)


def _unusual(segment: bytes, *, position: int, raw: bool) -> tuple[Document, bytes]:
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
        raise never_closed(opened)
    found = _ID.search(body)
    if not found:
        raise BrokenStoryError(
            "the story at line {line} has no <DOCNO>",
            remedy="Give it a line such as <DOCNO>TRC2-2008-08-10-0000</DOCNO>.",
            position=opened,
        )
    moment = _moment(body, found[1], opened=opened)
    document = Document(text_of(body, raw=raw), found[1].decode("utf-8", "replace"), moment)
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


def never_closed(position: int) -> BrokenStoryError:
    """The error of a story before whose end another one is opened, or the file has ended."""
    return BrokenStoryError("the <DOC> at line {line} is never closed", remedy=_CLOSE, position=position)


def _no_trc2() -> BrokenStoryError:
    return BrokenStoryError(
        "this is not a TRC2 file: it has no line <DOC>",
        remedy="Name the tag-marked TRC2 file as it was delivered (not cleaned), or another source.",
        position=0,
    )
