"""What becomes of each document: dropped and by which step, trained on, or held out.

The one place where documents are compared with one another, between the two halves of a preparation, both of which look
at parts only. It sees no text: lengths, dates, hashes and sketches. Memory: some 70 to 90 bytes per document; what
is only added up is read a piece at a time.

Documents too long to be held whole come as several rows (`continues`). Their rows are never duplicates, and all of
them go where the first one goes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft.specs.cleaning import CleaningStep, NearDuplicatesStep
from regraft.specs.dataset import ValidationSpec
from regraft_dataprep.cleaning import DUPLICATES, changing, dropped_from, name_of
from regraft_dataprep.near import Signatures, find_alike, find_leaders
from regraft_dataprep.pieces import DOCUMENT, Documents, Piece
from regraft_dataprep.split import chronological_split, hashed_split, last_split

TRAIN, EVAL, DROPPED = 0, 1, 255

Sides = npt.NDArray[np.uint8]
"""Shape (documents,): TRAIN, EVAL or DROPPED."""


@dataclass(slots=True)
class StepCount:
    """What went into a cleaning step and what came out."""

    step: str
    documents_in: int = 0
    documents_out: int = 0
    characters_in: int = 0
    characters_out: int = 0


@dataclass(slots=True)
class Decision:
    """The outcome for a whole corpus."""

    sides: Sides
    fate: npt.NDArray[np.uint8]
    """Shape (documents,): the number of the cleaning step that dropped it, from 1; 0: none did."""
    steps: list[StepCount] = field(default_factory=list)
    moved: int = 0
    """Documents that were to be held out and are like one that is trained on."""


class Corpus:
    """All documents of all pieces, by column."""

    def __init__(self, pieces: Sequence[Piece], folders: Sequence[Path], held_out: Sequence[bool] | None) -> None:
        self.pieces = pieces
        self.rows = [len(piece.documents) for piece in pieces]
        self._ends = np.cumsum(self.rows).tolist()
        self.signatures = Signatures([folder / "signatures.bin" for folder in folders], self.rows)
        self.held_out = None if held_out is None else np.repeat(np.asarray(held_out, dtype=np.bool_), self.rows)
        continues = self.column("continues")
        self.follows = np.concatenate([[False], continues[:-1]])
        """Rows that are the rest of the document before them."""
        self.long = continues | self.follows

    def __len__(self) -> int:
        return sum(self.rows)

    def parts(self) -> Iterator[tuple[slice, Documents]]:
        """The documents of each piece, and which rows of the corpus they are."""
        for piece, rows, end in zip(self.pieces, self.rows, self._ends, strict=True):
            yield slice(end - rows, end), piece.documents[:]

    def column(self, name: str) -> npt.NDArray[Any]:
        """One field of all documents."""
        values = np.empty(len(self), dtype=DOCUMENT[name])
        for own, documents in self.parts():
            values[own] = documents[name]
        return values


def decide(corpus: Corpus, *, steps: Sequence[CleaningStep], validation: ValidationSpec) -> Decision:
    """Carry out the steps that compare documents, then split.

    Raises:
        InvalidDataError: too little is left to split.
    """
    fate = corpus.column("dropped")
    for number, step in enumerate(steps, start=1):
        if step == DUPLICATES:
            reached = ((fate == 0) | (fate > number)) & ~corpus.long
            fate[_repeated(corpus, reached)] = number
        elif isinstance(step, NearDuplicatesStep):
            alone = (fate == 0) & ~corpus.long
            leaders = find_leaders(corpus.signatures, alone, threshold=step.drop_near_duplicates.threshold)
            fate[leaders >= 0] = number
    # The rest of a long document goes where its beginning does: without it there is no document.
    fate = np.where(corpus.follows & (fate == 0), _of_first(fate, corpus.follows), fate)
    sides = np.where(fate == 0, TRAIN, DROPPED).astype(np.uint8)
    sides[(fate == 0) & _held_out(corpus, fate == 0, validation)] = EVAL
    moved = _reunite(corpus, sides, validation, steps)
    _check_filled(sides, steps, moved)
    return Decision(sides, fate, _counts(corpus, fate, steps), moved)


def _repeated(corpus: Corpus, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """True for every one of `among` whose digest another one of them has earlier."""
    halves = [documents["digest"][among[own], 0] for own, documents in corpus.parts()]
    chosen = np.zeros(len(corpus), dtype=np.bool_)
    chosen[among] = _shared(np.concatenate(halves))
    digests = np.concatenate([documents["digest"][chosen[own]] for own, documents in corpus.parts()])
    ranked = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the first one stays the first
    same = (digests[ranked[1:]] == digests[ranked[:-1]]).all(axis=1)
    repeated = np.zeros(len(corpus), dtype=np.bool_)
    repeated[np.flatnonzero(chosen)[ranked[1:][same]]] = True
    return repeated


def _shared(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """True for every value that is there more than once."""
    order = np.argsort(values)
    ranked = values[order]
    same = ranked[1:] == ranked[:-1]
    shared = np.zeros(len(values), dtype=np.bool_)
    shared[order[1:][same]] = shared[order[:-1][same]] = True
    return shared


def _held_out(corpus: Corpus, kept: npt.NDArray[np.bool_], validation: ValidationSpec) -> npt.NDArray[np.bool_]:
    if corpus.held_out is not None:
        return corpus.held_out
    first = kept & ~corpus.follows
    mask = np.zeros(len(kept), dtype=np.bool_)
    if validation.order == "hashed":
        mask[first] = hashed_split(corpus.column("key")[first], fraction=validation.fraction)
    elif validation.order == "last":
        mask[first] = last_split(int(first.sum()), fraction=validation.fraction)
    else:  # without a date the order is that of the corpus, and before all dates
        mask[first] = chronological_split(corpus.column("timestamp")[first], fraction=validation.fraction)
    return _of_first(mask, corpus.follows)


def _of_first(values: npt.NDArray[Any], follows: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """For each row the value of the first row of its document."""
    if not follows.any():
        return values
    return values[np.maximum.accumulate(np.where(follows, 0, np.arange(len(follows))))]


def _reunite(corpus: Corpus, sides: Sides, validation: ValidationSpec, steps: Sequence[CleaningStep]) -> int:
    """Put held-out documents that are like one that is trained on to that one; with a list of files drop them."""
    threshold, dropped = validation.near_duplicates, dropped_from(steps)
    if threshold is None or (dropped is not None and dropped <= threshold):
        return 0
    held_out, trained = (sides == EVAL) & ~corpus.long, (sides == TRAIN) & ~corpus.long
    moved = find_alike(corpus.signatures, held_out, trained, threshold=threshold)
    sides[moved] = TRAIN if corpus.held_out is None else DROPPED
    return int(moved.sum())


def _check_filled(sides: Sides, steps: Sequence[CleaningStep], moved: int) -> None:
    for name, side in (("train", TRAIN), ("eval", EVAL)):
        if not (sides == side).any():
            cause = (
                f": {moved} that were to be held out are near duplicates of others" if moved and side == EVAL else ""
            )
            raise InvalidDataError(
                f"no document is left for the {name} split{cause}",
                field="dataset.validation" if side == EVAL else "dataset.cleaning",
                value=[name_of(step) for step in steps],
                remedy="Hold out other documents, look for near duplicates less strictly, or clean less.",
                reason="empty_split",
            )


def _counts(corpus: Corpus, fate: npt.NDArray[np.uint8], steps: Sequence[CleaningStep]) -> list[StepCount]:
    """Between two steps that change texts a document has the same characters."""
    counts = [StepCount(name_of(step)) for step in steps]
    changes = changing(steps)
    for piece, (own, documents) in zip(corpus.pieces, corpus.parts(), strict=True):
        first = ~corpus.follows[own]
        sizes = _sizes(piece, documents)
        for number, count in enumerate(counts, start=1):
            before, after = (sizes[bisect_left(changes, bound)] for bound in (number, number + 1))
            inside, outside = ((fate[own] == 0) | (fate[own] >= least) for least in (number, number + 1))
            count.documents_in += int((inside & first).sum())
            count.documents_out += int((outside & first).sum())
            count.characters_in += int(before[inside].sum(dtype=np.int64))
            count.characters_out += int(after[outside].sum(dtype=np.int64))
    return counts


def _sizes(piece: Piece, documents: Documents) -> list[npt.NDArray[np.uint32]]:
    """Characters of each document as they were read, and after each step that changes texts."""
    between = [] if piece.sizes is None else list(piece.sizes[:].T)
    return [documents["read"], *between, documents["characters"]]
