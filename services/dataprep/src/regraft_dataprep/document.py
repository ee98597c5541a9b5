"""A document: what every source yields and all later steps take.

One document is one unit of text that ends with an end-of-text token. The trade-off: the whole text is held as one
string, so a source must not yield a whole corpus as one document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Document:
    """Text of one story, cleaned."""

    text: str
    """May be empty: the story had nothing left after cleaning, and the pipeline drops it."""
    id: str
    """The source's own name of it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Facts beside the text, such as `timestamp`. Never tokenised."""
