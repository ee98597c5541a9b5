r"""The documented cleaning of TRC2, rule by rule: six `sed` passes, then `iconv -c`.

Each of the six removes its pattern's first match in a line. Their order matters, and the documented one is that of
`TRC2_RULES`:

    strip_closing_tags     </[A-Z0-9]*>
    strip_opening_tags     <[A-Z0-9]*>
    strip_timestamps       [-0-9: ]*          digits, dashes, colons and blanks that a line starts with
    strip_document_ids     TRC2-[-0-9]*
    strip_brackets         \[.*\]             from the first [ to the last ] of the line
    strip_advertisements   (Click on the Z.*  from there to the end of the line
    drop_invalid_utf8      iconv -f utf-8 -t utf-8 -c

Rules take any number of lines at once, as text in which bytes that are not UTF-8 are held by surrogates
(`surrogateescape`), so that they are where they are until the last rule. All together equal those tools byte for byte,
with one exception: GNU `iconv` lets the obsolete forms above U+10FFFF pass, which are no Unicode text, and which are
dropped here.

Not a general cleaner: HTML entities, mojibake and odd white space stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from regraft.specs.cleaning import TRC2_RULES, Trc2Rule

CLEANING_VERSION = 1
"""Part of the content address: raise it when the same bytes are cleaned to other text."""

ESCAPED = "surrogateescape"
"""How bytes that are not UTF-8 are decoded, for rules."""

_CLOSING_TAG = re.compile(r"</[A-Z0-9]*>")
_OPENING_TAG = re.compile(r"<[A-Z0-9]*>")
_DOCUMENT_ID = re.compile(r"TRC2-[-0-9]*")
_STAMPS = re.compile(r"\n[-0-9: ]+")
_ADVERTISEMENT = "(Click on the Z"
_BLANK = " \t\n\r\x0b\x0c"

Rule = Callable[[str], str]
_Span = tuple[int, int]


def clean_lines(lines: bytes) -> bytes:
    """Whole lines after all rules, in the documented order; their newlines stay."""
    return _cleaned(lines).encode()


def clean_story(lines: bytes) -> str:
    """The text of a story: its lines after all rules, without blank ones at either end; empty when nothing is left."""
    return without_blank_ends(_cleaned(lines))


def without_blank_ends(text: str) -> str:
    """Without blank lines at either end; the white space of other lines stays."""
    text = text.strip("\n")
    if text and text[0] not in _BLANK and text[-1] not in _BLANK:
        return text
    kept = len(text.rstrip(_BLANK))
    if not kept:
        return ""
    first, end = len(text) - len(text.lstrip(_BLANK)), text.find("\n", kept)
    return text[text.rfind("\n", 0, first) + 1 : end if end >= 0 else None]


def strip_timestamps(text: str) -> str:
    """Rule 3."""
    return _STAMPS.sub("\n", "\n" + text)[1:]


def strip_advertisements(text: str) -> str:
    """Rule 6. A letter before its words: searching for one that is rare is many times faster."""
    if "Z" not in text or _ADVERTISEMENT not in text:
        return text
    return _without(text, _first_in_lines(text, _ADVERTISEMENT, lambda at, end: (at, end)))


def strip_brackets(text: str) -> str:
    """Rule 5. Greedy: a "]" before the first "[" takes no part, and inner brackets go with the outer ones."""

    def span(at: int, end: int) -> _Span | None:
        last = text.rfind("]", at, end)
        return (at, last + 1) if last >= 0 else None

    return _without(text, _first_in_lines(text, "[", span)) if "[" in text else text


def drop_invalid_utf8(text: str) -> str:
    """Rule 7. Bytes are judged as they are now: rules before may have joined some to a character."""
    return text if text.isascii() else text.encode(errors=ESCAPED).decode(errors="ignore")


def _cleaned(lines: bytes) -> str:
    text = lines.decode(errors=ESCAPED)
    for rule in _IN_ORDER:
        text = rule(text)
    return text


def _matching(pattern: re.Pattern[str], mark: str) -> Rule:
    """The rule that removes a pattern; every match of it starts with `mark`."""

    def rule(text: str) -> str:
        def span(at: int, end: int) -> _Span | None:
            found = pattern.search(text, at, end)
            return found.span() if found else None

        return _without(text, _first_in_lines(text, mark, span)) if mark in text else text

    return rule


def _first_in_lines(text: str, mark: str, span: Callable[[int, int], _Span | None]) -> Iterator[_Span]:
    """What to remove: for every line with the mark, what `span` says of the mark's place and the line's end."""
    at = text.find(mark)
    while at >= 0:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if found := span(at, end):
            yield found
        at = text.find(mark, end)


def _without(text: str, spans: Iterator[_Span]) -> str:
    pieces, done = [], 0
    for start, end in spans:
        pieces.append(text[done:start])
        done = end
    return "".join([*pieces, text[done:]]) if done else text


RULES: dict[Trc2Rule, Rule] = {
    "strip_closing_tags": _matching(_CLOSING_TAG, "</"),
    "strip_opening_tags": _matching(_OPENING_TAG, "<"),
    "strip_timestamps": strip_timestamps,
    "strip_document_ids": _matching(_DOCUMENT_ID, "TRC2-"),
    "strip_brackets": strip_brackets,
    "strip_advertisements": strip_advertisements,
    "drop_invalid_utf8": drop_invalid_utf8,
}
"""By the names that a dataset's `cleaning` has for them."""

_IN_ORDER = tuple(RULES[name] for name in TRC2_RULES)
