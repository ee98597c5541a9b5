"""Data sources. The name of a source is the name of its file here; a new file is a new source."""

from __future__ import annotations

from regraft.discover import load
from regraft.storage import local_path
from regraft_dataprep.sources.base import FIELD, Source


def open_source(name: str, *, uri: str) -> Source:
    """The corpus at `uri`, read by the source `name`.

    Raises:
        InvalidInputError: no such source (the message lists all of them), or no such file.
    """
    module = load(__name__, name, field="dataset.source")
    source: Source = module.open_source(local_path(uri, field=FIELD))
    return source
