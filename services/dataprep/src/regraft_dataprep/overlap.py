"""How much of the held-out text is in the train split too, by sampled spans of 13 tokens (see `sketches`).

Memory: 8 bytes per sampled span of the held-out split, one for every 64 of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft_dataprep.decide import EVAL, TRAIN, Sides
from regraft_dataprep.pieces import Piece

_HALF = 0.5


def measure_overlap(pieces: Sequence[Piece], sides: Sides) -> dict[str, Any]:
    """For the corpus report: spans sampled, the share of them seen in training, documents that are half seen."""
    held_out = [spans for spans, _ in _spans(pieces, sides, EVAL)]
    spans = np.unique(np.concatenate(held_out)) if held_out else np.empty(0, np.uint64)
    seen = np.zeros(len(spans), dtype=np.bool_)
    if not len(spans):
        return {"spans": 0, "share": None, "documents_half_seen": 0}
    for trained, _ in _spans(pieces, sides, TRAIN):
        places = np.minimum(np.searchsorted(spans, trained), len(spans) - 1)
        seen[places[spans[places] == trained]] = True
    half = 0
    for own, counts in _spans(pieces, sides, EVAL):
        found = np.concatenate([[0], np.cumsum(seen[np.searchsorted(spans, own)])])
        ends = np.cumsum(counts)
        half += int((found[ends] - found[ends - counts] >= _HALF * np.maximum(counts, 1)).sum())
    return {"spans": len(spans), "share": round(float(seen.mean()), 6), "documents_half_seen": half}


def _spans(
    pieces: Sequence[Piece], sides: Sides, side: int
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]]:
    """Of each piece, the spans of the documents of one side, and how many each has."""
    first = 0
    for piece in pieces:
        chosen = sides[first : first + len(piece.documents)] == side
        first += len(piece.documents)
        counts = piece.documents[:]["spans"].astype(np.int64)
        yield piece.spans[:][np.repeat(chosen, counts)], counts[chosen]
