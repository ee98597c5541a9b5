"""Turns WikiText's tokenised English back into running text (`wikitext_detokenize`).

WikiText stands words and marks apart, writes ` @-@ ` for a hyphen inside a word (`@,@` and `@.@` inside a number) and
opens headings with spaced equals signs. The rules are those that language model evaluation commonly uses, in their
order, which matters: brackets are closed up before the lines are, and headings from the longest to the shortest.

Not for other text: a blank before a full stop goes away wherever it stands, and a lone `N` becomes `1`.
"""

from __future__ import annotations

import re

_BEFORE_BRACKETS = (
    ("s '", "s'"),
    *((f" @{mark}@ ", mark) for mark in "-,."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
)
_BRACKETS = ("()", "[]", "{}", '""', "''")
_AFTER_BRACKETS = (
    *((" ".join("=" * level), "=" * level) for level in (4, 3, 2)),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)
_INSIDE = {
    pair: re.compile(f"{re.escape(pair[0])}([^{re.escape(pair[1])}]*){re.escape(pair[1])}") for pair in _BRACKETS
}


def detokenise(text: str) -> str:
    """`text` as it was before WikiText's tokeniser, as far as that can be told."""
    text = _replaced(text, rules=_BEFORE_BRACKETS)
    for (opening, closing), inside in _INSIDE.items():
        text = inside.sub(lambda found, o=opening, c=closing: f"{o}{found[1].strip()}{c}", text)
    return _replaced(text, rules=_AFTER_BRACKETS)


def _replaced(text: str, *, rules: tuple[tuple[str, str], ...]) -> str:
    for old, new in rules:
        text = text.replace(old, new)
    return text
