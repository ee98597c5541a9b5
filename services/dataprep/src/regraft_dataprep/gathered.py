"""What is known of a corpus once all its parts are tokenised: what becomes of every document, and what comes out.

Everything here follows from the pieces in the work folder, so it is made again, and not stored, when a run goes on.
Memory: some 40 bytes per document.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft_dataprep.decide import Corpus, decide
from regraft_dataprep.overlap import measure_overlap
from regraft_dataprep.pieces import Piece
from regraft_dataprep.sources.base import BadRecord, Inventory, empty_corpus, too_many
from regraft_dataprep.units import SPLITS, SplitPlan, Units
from regraft_dataprep.windows import Evenly, Listed, plan_windows

BAD_SHOWN = 20
EXAMPLES = 5


class Gathered:
    """One corpus, decided about.

    Raises:
        InvalidDataError: it is empty, too little is left of it to split, or too many records are bad.
    """

    def __init__(self, units: Units, inventory: Inventory) -> None:
        self.units, self.spec, self.inventory, self.encoder = units, units.spec, inventory, units.tokenizer
        count = len(units.corpus.stretches)
        self.pieces: list[Piece] = [units.piece(number) for number in range(count)]
        self._check_records()
        folders = [units.piece_folder(number) for number in range(count)]
        self.corpus = Corpus(self.pieces, folders, units.corpus.held_out)
        self.decision = decide(self.corpus, steps=self.spec.cleaning, validation=self.spec.validation)
        self._check_windows()

    def fact(self, name: str) -> int:
        """A count, over all pieces."""
        return sum(piece.facts[name] for piece in self.pieces)

    def first(self, name: str, limit: int) -> list[dict[str, Any]]:
        """The first entries of a list, over all pieces."""
        return [entry for piece in self.pieces for entry in piece.facts[name]][:limit]

    def bad_records(self, limit: int) -> list[BadRecord]:
        """The first records that could not be read."""
        return [BadRecord(**record) for record in self.first("bad_first", limit)]

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """The documents of a split."""
        return np.flatnonzero(self.decision.sides == SPLITS[split])

    def tokens_of(self, split: str) -> npt.NDArray[np.int64]:
        """Tokens of each document of a split, EOS included; the rows of a long one together."""
        rows = self.rows(split)
        tokens = self.corpus.column("tokens")[rows].astype(np.int64)
        follows = self.corpus.follows[rows]
        return np.add.reduceat(tokens, np.flatnonzero(~follows)) if follows.any() else tokens

    @cached_property
    def windows(self) -> dict[str, Evenly | Listed]:
        """The windows of each split."""
        length = self.spec.max_sequence_length
        return {
            name: plan_windows(self.tokens_of(name), self.spec.packing, max_sequence_length=length, stream=side)
            for name, side in SPLITS.items()
        }

    @cached_property
    def splits(self) -> dict[str, SplitPlan]:
        """What each split consists of."""
        tokens, sides = self.corpus.column("tokens"), self.decision.sides
        ends = np.cumsum(self.corpus.rows)[:-1]
        plans = {}
        for name, side in SPLITS.items():
            own = np.where(sides == side, tokens, np.uint32(0))
            per_piece = [int(part.sum(dtype=np.int64)) for part in np.split(own, ends)]
            plans[name] = SplitPlan(
                documents=int((~self.corpus.follows[sides == side]).sum()),
                tokens=sum(per_piece),
                windows=self.windows[name].count,
                piece_tokens=per_piece,
            )
        return plans

    @cached_property
    def overlap(self) -> dict[str, Any]:
        """Between the splits."""
        return measure_overlap(self.pieces, self.decision.sides)

    def text(self, row: int, *, most_tokens: int) -> tuple[str, int]:
        """The beginning of a document, decoded, and its number of tokens."""
        number = int(np.searchsorted(np.cumsum(self.corpus.rows), row, side="right"))
        piece = self.pieces[number]
        within = row - sum(self.corpus.rows[:number])
        start = int(piece.documents["tokens"][:within].sum(dtype=np.int64))
        count = min(int(piece.documents["tokens"][within]), most_tokens)
        # Read, not mapped: the kernel maps whole neighbourhoods, and some hundred of these are the whole corpus.
        path, kind = self.units.piece_folder(number) / "ids.bin", piece.ids.dtype
        found = np.fromfile(path, kind, count=count, offset=start * kind.itemsize)
        ids = [token for token in found.tolist() if token != self.encoder.eos_id]
        return self.encoder.tokenizer.decode(ids, skip_special_tokens=False), len(ids)

    def _check_windows(self) -> None:
        for name, plan in self.splits.items():
            if not plan.windows:
                raise InvalidDataError(
                    f"the {name} split is too short for one window of {self.spec.max_sequence_length} tokens",
                    field="dataset.packing.remainder",
                    value=self.spec.packing.remainder,
                    remedy="Pad the last window, shorten the windows, or hold out another share.",
                    reason="empty_split",
                )

    def _check_records(self) -> None:
        limit, bad = self.spec.reading.max_bad_records, self.fact("bad")
        if bad > limit:
            raise too_many(bad, limit, self.bad_records(limit + 1)[-1])
        if not self.fact("rows"):
            raise empty_corpus(self.units.corpus.sources[0].files[0].uri)
