r"""The documented cleaning of TRC2: six `sed` passes, then `iconv -c`.

Each pass removes its pattern's first match in a line, in this order:

    1  </[A-Z0-9]*>        closing tag
    2  <[A-Z0-9]*>         opening tag
    3  [-0-9: ]*           digits, dashes, colons and blanks that a line starts with (the timestamp)
    4  TRC2-[-0-9]*        document id
    5  \[.*\]              from the first [ to the last ] of the line
    6  (Click on the Z.*   from there to the end of the line
    7  iconv -f utf-8 -t utf-8 -c   bytes that are not UTF-8

Works on bytes, as `sed` does under LC_ALL=C, and equals those tools byte for byte, with one exception: GNU `iconv` lets
the obsolete forms above U+10FFFF pass, which are no Unicode text, and which are dropped here.

Not a general cleaner: HTML entities, mojibake and odd white space stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

CLEANING_VERSION = 1
"""Part of the content address: raise it when the same bytes are cleaned to other text."""

_CLOSING_TAG = re.compile(rb"</[A-Z0-9]*>")
_OPENING_TAG = re.compile(rb"<[A-Z0-9]*>")
_DOCUMENT_ID = re.compile(rb"TRC2-[-0-9]*")
_STAMP = b"-0123456789: "
_ADVERTISEMENT = b"(Click on the Z"
_HEADER_LINES = (b"<DOCNO>", b"<BLOGS08DAY>")


def clean_line(line: bytes) -> bytes:
    """One line, without its newline, after the seven passes. The `in` tests are what makes it fast."""
    if b"<" in line:
        line = _CLOSING_TAG.sub(b"", line, count=1)
        line = _OPENING_TAG.sub(b"", line, count=1)
    line = line.lstrip(_STAMP)
    if b"TRC2-" in line:
        line = _DOCUMENT_ID.sub(b"", line, count=1)
    if b"[" in line:
        line = _drop_brackets(line)
    if _ADVERTISEMENT in line:
        line = line[: line.index(_ADVERTISEMENT)]
    return line if line.isascii() else line.decode("utf-8", errors="ignore").encode("utf-8")


def clean_story(lines: Iterable[bytes]) -> str:
    """The text of one story: its cleaned lines without blank ones at either end; empty when nothing is left."""
    cleaned = list(_cleaned(lines))
    while cleaned and _is_blank(cleaned[-1]):
        cleaned.pop()
    first = next((number for number, line in enumerate(cleaned) if not _is_blank(line)), 0)
    return b"\n".join(cleaned[first:]).decode("utf-8")


def has_text(lines: Iterable[bytes]) -> bool:
    """True when `clean_story` would not be empty; stops at the first line that is not blank."""
    return any(not _is_blank(line) for line in _cleaned(lines))


def _cleaned(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (clean_line(line) for line in lines if not line.startswith(_HEADER_LINES))


def _is_blank(line: bytes) -> bool:
    return not line.strip()


def _drop_brackets(line: bytes) -> bytes:
    # Greedy: a "]" before the first "[" takes no part, and inner brackets go with the outer ones.
    start = line.find(b"[")
    end = line.rfind(b"]")
    return line[:start] + line[end + 1 :] if start < end else line
