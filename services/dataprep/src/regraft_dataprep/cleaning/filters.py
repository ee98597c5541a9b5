"""Filters: documents too short, too long, or hardly text at all. They change no text, they drop or keep."""

from __future__ import annotations

from collections.abc import Callable

from regraft.specs.cleaning import Length, Quality


def length_filter(options: Length) -> Callable[[str], str | None]:
    """Keep texts with a number of characters between the bounds, both included."""

    def check(text: str) -> str | None:
        longest = options.max_characters if options.max_characters is not None else len(text)
        return text if options.min_characters <= len(text) <= longest else None

    return check


def quality_filter(options: Quality) -> Callable[[str], str | None]:
    """Keep texts with enough letters and few repeated lines."""

    def check(text: str) -> str | None:
        enough = letters(text) >= options.min_letters
        return text if enough and repeated_lines(text) <= options.max_repeated_lines else None

    return check


def letters(text: str) -> float:
    """Share of letters and white space among the characters; 1 for an empty text."""
    return sum(c.isalpha() or c.isspace() for c in text) / len(text) if text else 1.0


def repeated_lines(text: str) -> float:
    """Share of the lines with text that stand in the document already."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0
