"""Data sources. The name of a source is the name of its file here; a new file is a new source."""

from __future__ import annotations

from regraft.discover import load
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.sources._files import Uris
from regraft_dataprep.sources.base import Source


def reading_in_effect(name: str, reading: ReadingSpec) -> ReadingSpec:
    """`reading` in one spelling, without the options that the source `name` has no use for: what its documents follow.

    A source that does not say what it uses, with a function `in_effect`, is taken to use all.

    Raises:
        InvalidInputError: no such source.
    """
    rule = getattr(load(__name__, name, field="dataset.source"), "in_effect", None)
    found: ReadingSpec = rule(reading) if rule else reading
    return found


def open_source(name: str, *, uri: Uris, reading: ReadingSpec | None = None, raw: bool = False) -> Source:
    """The corpus at `uri` (one or several files, folders, globs or URLs), read by the source `name`.

    `raw`: with texts as they lie in the files, where the source would clean them.

    Raises:
        InvalidInputError: no such source (the message lists all of them), or no such file.
    """
    module = load(__name__, name, field="dataset.source")
    source: Source = module.open_source(uri, reading=reading)
    source.raw = raw
    return source
