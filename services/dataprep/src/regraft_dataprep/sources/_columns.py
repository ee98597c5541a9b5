"""What a scan keeps of each document, in numpy blocks.

1.8 M Python objects per column would take ten times the memory. The trade-off: ids are of one width, that of the
longest, so long ones are refused where they are read. Not for texts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from regraft_dataprep.document import Document

_BLOCK = 65_536


class Facts(NamedTuple):
    """Of one document."""

    timestamp: datetime | None
    """Without a time zone: UTC, or the corpus' own."""
    id: bytes
    """Decides between equal timestamps; empty where the position does."""
    has_text: bool


def facts_of(document: Document) -> Facts:
    """The order of undated documents is that of the corpus: their ids play no part."""
    stamp = document.metadata.get("timestamp")
    moment = datetime.fromisoformat(stamp) if stamp else None
    return Facts(moment, document.id.encode() if moment else b"", bool(document.text))


class Columns:
    """Collects facts."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, Any, Any]] = []
        self._rows: list[Facts] = []

    def add(self, facts: Facts) -> None:
        self._rows.append(facts)
        if len(self._rows) == _BLOCK:
            self._flush()

    def arrays(self) -> tuple[Any, ...]:
        """Timestamps (datetime64[s], NaT where there is none), ids and has_text of all documents."""
        self._flush()
        return tuple(np.concatenate(blocks) for blocks in zip(*self._done, strict=True))

    def _flush(self) -> None:
        timestamps, ids, texts = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        block = np.array(timestamps, dtype="datetime64[s]"), np.array(ids, dtype=np.bytes_), np.array(texts, dtype=bool)
        self._done.append(block)
        self._rows.clear()
