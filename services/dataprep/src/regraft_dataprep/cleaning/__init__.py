"""Cleaning documents: named steps one after the other, each counted with what it is given and what it lets through.

Most steps look at one document alone and run wherever the document is read. Two compare documents with one another,
`drop_duplicates` and `drop_near_duplicates`: here they only mark their place in the order, and `decide` carries them
out once all documents are known.

A source's own format is the source's, before there is a document, but for TRC2: its rules are steps as well, for those
who want them counted, or in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from regraft.specs.cleaning import CleaningStep, LengthStep, NearDuplicatesStep, QualityStep
from regraft_dataprep.clean import RULES, without_blank_ends
from regraft_dataprep.cleaning.filters import length_filter, quality_filter
from regraft_dataprep.cleaning.text import drop_empty, fix_text, unify_newlines

CLEANING_STEPS_VERSION = 2
"""Part of the content address: raise it when a step gives other text, or drops others, for the same documents."""

DUPLICATES = "drop_duplicates"

Step = Callable[[str], str | None]
"""A text to the text, perhaps changed, or to None: the document is dropped."""

_CHANGING: Mapping[str, Step] = {
    **RULES,
    "unify_newlines": unify_newlines,
    "strip_blank_lines": without_blank_ends,
    "fix_text": fix_text,
}


class Cleaned(NamedTuple):
    """What became of one text."""

    text: str
    """After the last step that it reached."""
    dropped: int
    """The number of the step that dropped it, from 1; 0 when none did."""
    compared: str
    """As it was at `drop_duplicates`, or `text` where that is not among the steps it reached."""
    sizes: tuple[int, ...] = ()
    """Characters after each step that changes texts, but the last of them, as far as it reached them."""


class Cleaner:
    """The steps of one corpus, as far as they need one document only. Has no memory."""

    def __init__(self, steps: Sequence[CleaningStep]) -> None:
        self._steps = [(number, _local(step)) for number, step in enumerate(steps, start=1)]
        self._comparing = [number for number, step in enumerate(steps, start=1) if step == DUPLICATES]
        self._sized = changing(steps)[:-1]
        self.sizes = len(self._sized)
        """How many `sizes` a text has that reaches the end."""

    def clean(self, text: str) -> Cleaned:
        """A text after all steps, or up to the one that drops it."""
        compared, sizes = None, []
        for number, step in self._steps:
            if step is None:
                compared = text if number in self._comparing else compared
                continue
            changed = step(text)
            if changed is None:
                return Cleaned(text, number, text if compared is None else compared, tuple(sizes))
            text = changed
            if number in self._sized:
                sizes.append(len(text))
        return Cleaned(text, 0, text if compared is None else compared, tuple(sizes))


def dropped_from(steps: Sequence[CleaningStep]) -> float | None:
    """The likeness from which on documents are dropped as near duplicates; None: they are not."""
    near = (step.drop_near_duplicates.threshold for step in steps if isinstance(step, NearDuplicatesStep))
    return next(near, None)


def changing(steps: Sequence[CleaningStep]) -> list[int]:
    """The numbers of the steps that may change a text, from 1."""
    return [number for number, step in enumerate(steps, start=1) if name_of(step) in _CHANGING]


def name_of(step: CleaningStep) -> str:
    """The name a step is declared by."""
    return step if isinstance(step, str) else next(iter(type(step).model_fields))


def _local(step: CleaningStep) -> Step | None:
    """None for a step that compares documents."""
    if isinstance(step, NearDuplicatesStep):
        return None
    if isinstance(step, LengthStep):
        return length_filter(step.length)
    if isinstance(step, QualityStep):
        return quality_filter(step.quality)
    return {**_CHANGING, "drop_empty": drop_empty, DUPLICATES: None}[step]
