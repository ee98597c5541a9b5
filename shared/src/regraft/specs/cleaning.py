"""How documents are cleaned: named steps, in the order they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from regraft.specs.base import Spec

Share = Annotated[float, Field(ge=0.0, le=1.0)]
DROP_INVALID: Final = "drop_invalid_utf8"
Trc2Rule = Literal[
    "strip_closing_tags",
    "strip_opening_tags",
    "strip_timestamps",
    "strip_document_ids",
    "strip_brackets",
    "strip_advertisements",
    "drop_invalid_utf8",
]
"""The documented cleaning of TRC2, in its order: six rules of which each removes its first match in every line, and the
dropping of bytes that are no UTF-8. Where one of them is named, source `trc2` gives its texts as they lie in the file.
"""
PlainStep = Literal[Trc2Rule, "unify_newlines", "strip_blank_lines", "fix_text", "drop_empty", "drop_duplicates"]
"""Steps without options.

Those of `Trc2Rule`. `unify_newlines`: carriage returns, with a newline or without, become newlines.
`strip_blank_lines`: at either end of a document. `fix_text`: mojibake, HTML entities, curly and wide forms as ftfy
mends them, normal form NFC. `drop_empty`: nothing but white space. `drop_duplicates`: the same text as an earlier
document.
"""


class NearDuplicates(Spec):
    """Drop documents much like an earlier one (MinHash over token triples)."""

    threshold: float = Field(0.8, gt=0.0, lt=1.0)
    """Estimated share of common token triples (Jaccard) from which on a document is dropped."""


class Length(Spec):
    """Drop documents that are too short or too long."""

    min_characters: int = Field(1, ge=0)
    """Shorter ones are dropped."""
    max_characters: int | None = Field(None, ge=1)
    """Longer ones are dropped."""

    @model_validator(mode="after")
    def _in_order(self) -> Length:
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError("max_characters is less than min_characters")
        return self


class Quality(Spec):
    """Drop documents that hardly read as text."""

    min_letters: Share = 0.5
    """Least share of letters and white space among the characters."""
    max_repeated_lines: Share = 0.5
    """Largest share of lines that stand in the document already."""


class NearDuplicatesStep(Spec):
    """Near duplicates, with options."""

    drop_near_duplicates: NearDuplicates
    """The options."""


class LengthStep(Spec):
    """Length, with options."""

    length: Length
    """The options."""


class QualityStep(Spec):
    """Quality, with options."""

    quality: Quality
    """The options."""


def _kind(step: object) -> str | None:
    """The tag of a step: `plain` for a name, else its one key."""
    if isinstance(step, str):
        return "plain"
    keys = list(step) if isinstance(step, Mapping) else list(type(step).model_fields) if isinstance(step, Spec) else []
    return str(keys[0]) if len(keys) == 1 else None


CleaningStep = Annotated[
    Annotated[PlainStep, Tag("plain")]
    | Annotated[NearDuplicatesStep, Tag("drop_near_duplicates")]
    | Annotated[LengthStep, Tag("length")]
    | Annotated[QualityStep, Tag("quality")],
    Discriminator(
        _kind,
        custom_error_type="cleaning_step",
        custom_error_message=(
            f"A cleaning step is {', '.join(get_args(PlainStep))}, or one of drop_near_duplicates, length, quality "
            "with its options"
        ),
    ),
]

CORRECTED: tuple[CleaningStep, ...] = ("fix_text", "drop_empty", "drop_duplicates")
"""The default: every story once, as its author wrote it."""

TRC2_RULES: tuple[Trc2Rule, ...] = get_args(Trc2Rule)

REFERENCE: tuple[CleaningStep, ...] = (*TRC2_RULES, "unify_newlines", "fix_text")
"""What the documented steps for TRC2 do to a text before it is tokenised."""


def gives_raw_texts(steps: tuple[CleaningStep, ...]) -> bool:
    """Whether the steps clean what source `trc2` otherwise cleans by itself."""
    return any(step in TRC2_RULES for step in steps)
