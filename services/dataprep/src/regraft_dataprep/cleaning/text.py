"""Mending text.

ftfy is a hundred times slower than the tokenizer and leaves nearly every line as it is. It works line by line, so only
lines with something that it could change are given to it, and plain bytes methods find those at a thousandth of its
price. A property test holds the outcome against ftfy's own.
"""

from __future__ import annotations

import re

import ftfy

_NEVER_CHANGED = bytes({*b"\t\n", *range(0x20, 0x7F)} - {ord("&")})
# Curly quotes are straightened one by one; dashes and ellipses stay. In no encoding that ftfy tries do their bytes make
# up another character, so a line with nothing else to mend, and no entity, needs no more than that.
_MORE_THAN_QUOTES = re.compile(r"[^\t\x20-\x7e\u2013\u2014\u2018\u2019\u201c\u201d\u2026]")
_BEFORE_MARKUP = ftfy.TextFixerConfig(explain=False)
_AFTER_MARKUP = ftfy.TextFixerConfig(explain=False, unescape_html=False)


def fix_text(text: str) -> str:
    """`ftfy.fix_text` with its defaults (NFC, entities unescaped until a line has a '<'): the same text for less."""
    if not may_change(text):
        return text
    config, lines = _BEFORE_MARKUP, text.split("\n")
    last = len(lines) - 1
    for number, line in enumerate(lines):
        if line.isascii() and not may_change(line):
            pass
        elif not _MORE_THAN_QUOTES.search(line) and not ("&" in line and ";" in line):
            lines[number] = _straight(line)
        else:
            ended = line if number == last else line + "\n"  # "\r\n" is mended with its newline in sight
            lines[number] = ftfy.fix_text(ended, config).removesuffix("\n" if number < last else "")
        if "<" in line:
            config = _AFTER_MARKUP
    return "\n".join(lines)


def _straight(line: str) -> str:
    line = line.replace("\u2018", "'").replace("\u2019", "'")
    return line.replace("\u201c", '"').replace("\u201d", '"')


def may_change(text: str) -> bool:
    """False when ftfy is sure to leave it as it is: nothing to decode, to normalise or to unescape."""
    return not text.isascii() or bool(text.encode().translate(None, _NEVER_CHANGED))


def drop_empty(text: str) -> str | None:
    """None for nothing but white space."""
    return text if text.strip() else None


def unify_newlines(text: str) -> str:
    """Carriage returns become newlines, and with a newline after them are left out, as Python's text mode has it."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
