"""A document: what every source yields and all later steps take.

One document is one unit of text that ends with an end-of-text token; a very long one comes in pieces that follow one
another. The trade-off: a document, or a piece of one, is held as one string, so a source must not yield a whole corpus
as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Document:
    """Text of one story, cleaned."""

    text: str
    """May be empty: the story had nothing left after cleaning, and the pipeline drops it."""
    id: str = ""
    """The source's own name of it; empty where it has none."""
    timestamp: datetime | None = None
    """Whole seconds without a zone: UTC where the source named one, else the corpus' own."""
    continues: bool = False
    """The next document is the rest of this one: no end-of-text token between them."""
