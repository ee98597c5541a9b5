"""The words of the corpus report's page: text of a corpus made harmless and visible, and what the numbers mean.

What stands in a corpus is not to be trusted: all of it is escaped, and characters that are not seen, or that turn the
direction of what follows them, are shown by their numbers. The trade-off: examples are compared character by character,
so a text that was rewritten looks spotted.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # which some scripts are spelt with
_BLANKS = {"\n": "↵\n", "\t": "⇥\t"}
_CLEAN, _TOLERABLE = 0.01, 0.1  # shares of held-out text that is trained on


def shown(text: str, *, changed: bool = False) -> str:
    """HTML for any text. What cannot be seen is shown by its number; `changed`: blanks other than ' ' as well."""
    return "".join(_shown(character, changed=changed) for character in text)


def changes(before: str, after: str) -> tuple[str, str]:
    """HTML for two texts, what differs marked in both."""
    codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    if codes and len(before) == len(after) and codes[-1][0] in ("insert", "delete"):
        codes[-1] = ("equal", *codes[-1][1:])  # both were cut to this length: the end is missing from one, not changed
    return (
        "".join(_stretch(before[start:end], changed=tag != "equal") for tag, start, end, _, _ in codes),
        "".join(_stretch(after[start:end], changed=tag != "equal") for tag, _, _, start, end in codes),
    )


def count(number: int, noun: str) -> str:
    """'1 document', '2 documents'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Sentences on what the held-out text has in common with the text that is trained on."""
    overlap, moved = report["overlap"], report["held_out_like_trained"]
    sentences = []
    if moved:
        were, they = ("was", "it is") if moved == 1 else ("were", "they are")
        fate = "left out" if _dropped_for_it(report) else "trained on too"
        what = f"{count(moved, 'document')} {were} to be held out"
        sentences.append(f"{what}, but like one that is trained on, so {they} {fate}.")
    if overlap["share"] is None:
        return [*sentences, "The held-out documents are too short to tell how much of their text is trained on."]
    half, documents = overlap["documents_half_seen"], report["splits"]["eval"]["documents"]
    sentences.append(
        f"{_how_much(overlap['share'])} of the held-out text stands word for word in the train split as well, by "
        f"{count(overlap['spans'], 'sampled span')} of 13 tokens; {half:,} of {count(documents, 'held-out document')} "
        f"{'is' if half == 1 else 'are'} at least half seen."
    )
    return [*sentences, _judgement(overlap["share"])]


def _how_much(share: float) -> str:
    return "None" if not share else "Less than 0.05 %" if share < 0.0005 else f"{100 * share:.2g} %"


def _judgement(share: float) -> str:
    if share < _CLEAN:
        return "The held-out loss will be that of text the model has not seen."
    if share < _TOLERABLE:
        return "The held-out loss will come out a little lower than for text the model has not seen."
    return (
        "The held-out loss will say little about text the model has not seen. Look for near duplicates more strictly, "
        "or hold out other documents; <code>require.max_eval_overlap</code> fails such a corpus."
    )


def _dropped_for_it(report: Mapping[str, Any]) -> bool:
    """Files that were named to be held out lose such documents; others go to the train split."""
    lost = sum(step["documents_in"] - step["documents_out"] for step in report["cleaning"])
    return bool(report["documents_in"] - report["documents_dropped_empty"] - lost > report["documents_out"])


def _stretch(text: str, *, changed: bool) -> str:
    return f"<mark>{shown(text, changed=True)}</mark>" if changed and text else shown(text)


def _shown(character: str, *, changed: bool) -> str:
    if character in _BLANKS:
        return _BLANKS[character] if changed else character
    category = unicodedata.category(character)
    unseen = category in _UNSEEN and (changed or character not in _JOINERS)
    if unseen or (changed and category == "Zs" and character != " "):
        return f"<span class='code'>U+{ord(character):04X}</span>"
    return html.escape(character)
