"""The names of checkpoint formats, as jobs and commands write them; what each one is, the worker's converters know.

Here, and not there, so that a job can be checked by processes that have no tensor library.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

Release = tuple[int, int]
FormatName = Literal[
    "hf",
    "cs-1.7",
    "cs-1.8",
    "cs-1.9",
    "cs-2.0",
    "cs-2.1",
    "cs-2.2",
    "cs-2.3",
    "cs-2.4",
    "cs-2.5",
    "cs-2.6",
    "cs-2.7",
    "cs-2.8",
    "cs-2.9",
]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)


def check_headless(formats: Collection[str], *, headless: bool) -> None:
    """Raise ValueError when an export without the head is asked for and no format can be one."""
    if headless and "hf" not in formats:
        raise ValueError("headless is of the hf export, which is not among the formats; a .mdl always has a head")


def release_of(name: str) -> Release | None:
    """Cerebras' release in the name of a format; None for Hugging Face."""
    family, dash, release = name.partition("-")
    if family != "cs" or not dash:
        return None
    major, _, minor = release.partition(".")
    return int(major), int(minor)
