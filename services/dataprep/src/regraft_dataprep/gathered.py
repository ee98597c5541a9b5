"""What is known of a corpus once all its parts are tokenised: what becomes of every document, and what comes out.

Everything here follows from the pieces in the work folder, so it is made again, and not stored, when a run goes on.
Memory: some 70 to 90 bytes per document, all in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft_dataprep.decide import Corpus, decide
from regraft_dataprep.overlap import measure_overlap
from regraft_dataprep.pieces import NO_DATE, Documents, Piece
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

    def tokens_of(self, split: str) -> npt.NDArray[np.integer[Any]]:
        """Tokens of each document of a split, EOS included; the rows of a long one together."""
        tokens = np.concatenate([documents["tokens"] for _, documents in self._parts(split)])
        follows = self.corpus.follows[self.decision.sides == SPLITS[split]]
        return np.add.reduceat(tokens, np.flatnonzero(~follows), dtype=np.int64) if follows.any() else tokens

    def totals(self, split: str) -> dict[str, int | str | None]:
        """Characters and bytes of a split, its first date and its last one."""
        characters = size = 0
        dates = []
        for _, documents in self._parts(split):
            characters += int(documents["characters"].sum(dtype=np.int64))
            size += int(documents["bytes"].sum(dtype=np.int64))
            dated = documents["timestamp"][documents["timestamp"] != NO_DATE]
            dates += [dated.min(), dated.max()] if len(dated) else []
        first, last = (str(np.datetime64(int(pick(dates)), "s")) if dates else None for pick in (min, max))
        return {"characters": characters, "bytes": size, "first": first, "last": last}

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
        plans = {}
        for name, side in SPLITS.items():
            per_piece = [int(documents["tokens"].sum(dtype=np.int64)) for _, documents in self._parts(name)]
            plans[name] = SplitPlan(
                documents=int((~self.corpus.follows & (self.decision.sides == side)).sum()),
                tokens=sum(per_piece),
                windows=self.windows[name].count,
                piece_tokens=per_piece,
            )
        return plans

    @cached_property
    def overlap(self) -> dict[str, Any]:
        """Between the splits."""
        return measure_overlap(self.pieces, self.decision.sides)

    def texts(self, rows: npt.NDArray[np.int64], *, most_tokens: int) -> Iterator[tuple[str, int]]:
        """The beginning of each of these documents, which are in order, decoded, and its number of tokens."""
        for piece, (own, documents) in zip(self.pieces, self.corpus.parts(), strict=True):
            ends = np.cumsum(documents["tokens"], dtype=np.int64)
            for within in rows[slice(*np.searchsorted(rows, (own.start, own.stop)))] - own.start:
                start = int(ends[within]) - int(documents["tokens"][within])
                found = piece.ids[start : min(int(ends[within]), start + most_tokens)]
                ids = [token for token in found.tolist() if token != self.encoder.eos_id]
                yield self.encoder.tokenizer.decode(ids, skip_special_tokens=False), len(ids)

    def _parts(self, split: str) -> Iterator[tuple[slice, Documents]]:
        """The documents of a split, piece by piece."""
        for own, documents in self.corpus.parts():
            yield own, documents[self.decision.sides[own] == SPLITS[split]]

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
            if self.spec.reading.documents == "shard":
                raise _no_shard(self.fact("stray_lines"), self.spec.reading.lines_per_shard)
            raise empty_corpus(self.units.corpus.sources[0].files[0].uri)


def _no_shard(lines: int, wanted: int) -> InvalidDataError:
    return InvalidDataError(
        f"the corpus has {lines} lines with text, and no file of it gives a document of {wanted} lines: the last shard "
        "of a file, full or not, is lost",
        field="dataset.reading.lines_per_shard",
        value=wanted,
        remedy="Take fewer lines, so that there are two documents at least, or the preset corrected, whose documents "
        "are stories.",
        reason="corpus_empty",
    )
