"""The token stream of a split, read from the pieces of the corpus: any stretch of it, by any process.

The stream is what is left of the pieces' ids when the documents of the other split, and the dropped ones, are taken
out. Where a stretch lies follows from the number of tokens that each piece gives to the split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from regraft_dataprep.decide import Sides
from regraft_dataprep.pieces import Piece

Tokens = npt.NDArray[np.int32]


class _Loaded(NamedTuple):
    """One piece, as the split sees it."""

    piece: Piece
    continues: npt.NDArray[np.bool_]
    """Of every document: the next one is the rest of it."""
    chosen: npt.NDArray[np.bool_]
    """Of every document: it belongs to the split."""
    offsets: npt.NDArray[np.int64]
    """Where each document begins in the piece's ids; one more for the end."""
    places: npt.NDArray[np.int64]
    """The same in the split's tokens of this piece."""


class SplitStream:
    """The tokens of one split."""

    def __init__(self, open_piece: Callable[[int], tuple[Piece, Sides]], *, side: int, tokens: Sequence[int]) -> None:
        self._open, self._side = open_piece, side
        self._starts = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])
        self._loaded: tuple[int, _Loaded] | None = None

    def read(self, first: int, last: int) -> tuple[Tokens, npt.NDArray[np.int64]]:
        """Tokens `first` to `last`, the last excluded, and where in them documents begin."""
        tokens, begins = np.empty(last - first, dtype=np.int32), [np.empty(0, dtype=np.int64)]
        number = int(np.searchsorted(self._starts, first, side="right")) - 1
        at = first
        while at < last:
            start, end = int(self._starts[number]), min(int(self._starts[number + 1]), last)
            if end > at:
                own, places = _stretch(self._piece(number), at - start, end - start)
                tokens[at - first : end - first] = own
                begins.append(places + (at - first))
            at, number = max(at, end), number + 1
        return tokens, np.concatenate(begins)

    def _piece(self, number: int) -> _Loaded:
        if self._loaded is None or self._loaded[0] != number:
            piece, sides = self._open(number)
            documents, chosen = piece.documents[:], sides == self._side
            lengths, continues = documents["tokens"].astype(np.int64), documents["continues"].copy()
            loaded = _Loaded(piece, continues, chosen, _ends(lengths), _ends(np.where(chosen, lengths, 0)))
            self._loaded = number, loaded
        return self._loaded[1]


def _stretch(loaded: _Loaded, first: int, last: int) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """Tokens `first` to `last` of the split within one piece, and where in them documents begin."""
    piece, continues, chosen, offsets, places = loaded
    low = int(np.searchsorted(places, first))
    low -= int(places[low]) > first
    high = int(np.searchsorted(places, last, side="left"))
    ids = piece.ids[offsets[low] : offsets[high]]
    if not chosen[low:high].all():
        ids = ids[np.repeat(chosen[low:high], np.diff(offsets[low : high + 1]))]
    skipped = first - int(places[low])
    rest = np.insert(continues[low : high - 1], 0, low > 0 and continues[low - 1])
    begins = places[low:high][chosen[low:high] & ~rest] - first
    return ids[skipped : skipped + last - first].astype(np.int32), begins[begins >= 0]


def _ends(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])
