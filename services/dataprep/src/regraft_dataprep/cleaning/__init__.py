"""Cleaning documents: named steps one after the other, each counting what it is given and what it lets through.

A step takes a text and returns it, perhaps changed, or None: the document is dropped. Steps may remember what they have
seen, so documents must come in the corpus's own order: of two equal ones the first stays.

Not for a source's own format (tags, ids): that is the source's, before there is a document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from regraft.specs.cleaning import CleaningStep, LengthStep, NearDuplicatesStep, QualityStep
from regraft_dataprep.cleaning.duplicates import ExactDuplicates, NearDuplicates
from regraft_dataprep.cleaning.filters import length_filter, quality_filter
from regraft_dataprep.cleaning.text import drop_empty, fix_text
from regraft_dataprep.document import Document

CLEANING_STEPS_VERSION = 1
"""Part of the content address: raise it when a step gives other text for the same document."""

Step = Callable[[str], str | None]


@dataclass(slots=True)
class StepCount:
    """What went into a step and what came out."""

    step: str
    documents_in: int = 0
    documents_out: int = 0
    characters_in: int = 0
    characters_out: int = 0


class Cleaner:
    """The steps of one corpus, with their memory and their counts. Made anew for each pass over the corpus."""

    def __init__(self, steps: Sequence[CleaningStep]) -> None:
        self._steps = [(StepCount(name_of(step)), _make(step)) for step in steps]

    def clean(self, document: Document) -> Document | None:
        """The document with its text cleaned, or None when a step drops it."""
        text = document.text
        for count, step in self._steps:
            count.documents_in += 1
            count.characters_in += len(text)
            changed = step(text)
            if changed is None:
                return None
            count.documents_out += 1
            count.characters_out += len(changed)
            text = changed
        return document if text is document.text else replace(document, text=text)

    def counts(self) -> list[StepCount]:
        """One per step, in order."""
        return [count for count, _ in self._steps]


def name_of(step: CleaningStep) -> str:
    """The name a step is declared by."""
    return step if isinstance(step, str) else next(iter(type(step).model_fields))


def _make(step: CleaningStep) -> Step:
    if isinstance(step, NearDuplicatesStep):
        return NearDuplicates(step.drop_near_duplicates).check
    if isinstance(step, LengthStep):
        return length_filter(step.length)
    if isinstance(step, QualityStep):
        return quality_filter(step.quality)
    return {"fix_text": fix_text, "drop_empty": drop_empty, "drop_duplicates": ExactDuplicates().check}[step]
