"""Data sources. The name of a source is the name of its file here; a new file is a new source."""

from __future__ import annotations

from regraft.discover import load
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.sources._files import Uris
from regraft_dataprep.sources.base import Source


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
