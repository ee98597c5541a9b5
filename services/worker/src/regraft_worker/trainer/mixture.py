"""Windows from several datasets, each with its share, in an order that is a function of the sample's number alone.

Sample i comes from one dataset, p; if it is the k-th of p, it is the window at position k of p's own order of epochs
(see data.py), as if p were read alone: a small dataset starts over, newly shuffled, as often as its share demands.
Which dataset is p depends on the weights and on nothing else. Of the first i samples the first dataset gives its share
of i, rounded; of what is left the second gives its share of the rest, rounded; and so on, in exact whole numbers. So
the long-run shares are exact, no count is ever off by more than half the number of datasets, and how many samples of
each came before the i-th takes no walk through them: a run goes on at any step at once, and any division of the
samples over processes reads the same windows.

The trade-off: the datasets alternate in a regular pattern, the same whatever the seed. Not for curricula, where shares
change along the way.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from regraft.hdf5 import Dataset, Windows
from regraft_worker.trainer.data import Indices, check_ids
from regraft_worker.trainer.ledger import fingerprints, total
from regraft_worker.trainer.order import Order, RowRanges, Shares

__all__ = ["Mixture", "Part", "Reads", "RowRanges", "Shares"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dataset of a mixture."""

    field: str
    """What names it in the job."""
    dataset: Dataset
    ranges: RowRanges
    weight: float = 1.0


class Reads:
    """A record of what is read as it is read, for the ledger; safe with readers in other threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: list[tuple[Indices, NDArray[np.uint64]]] = []
        self._seconds = 0.0

    def note(self, numbers: Indices, owners: Indices, rows: Indices, *, seconds: float) -> None:
        """These samples were read."""
        with self._lock:
            self._noted.append((numbers, fingerprints(numbers, owners, rows)))
            self._seconds += seconds

    def take(self, first: int, end: int) -> int:
        """The fingerprint of all reads of samples `first` up to `end`, which are forgotten; others stay."""
        found = 0
        with self._lock:
            kept = []
            for numbers, hashes in self._noted:
                chosen = (numbers >= first) & (numbers < end)
                found = (found + total(hashes[chosen])) % 2**64
                if not chosen.all():
                    kept.append((numbers[~chosen], hashes[~chosen]))
            self._noted = kept
        return found

    def take_seconds(self) -> float:
        """Spent reading since the last call."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds


class Mixture:
    """Samples by number; the first part is the job's own dataset, and may be the only one."""

    def __init__(self, parts: Sequence[Part], *, seed: int, shuffle: bool) -> None:
        self.parts = tuple(parts)
        self._shares = Shares([part.weight for part in parts])
        self._order = Order([part.ranges for part in parts], self._shares, seed=seed, shuffle=shuffle)
        self._reads = Reads()

    @property
    def reads(self) -> Reads:
        """What was read so far, and how long it took."""
        return self._reads

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The share of the samples that each part has; their sum is 1."""
        return self._shares.shares

    def locate(self, numbers: Indices) -> tuple[Indices, Indices]:
        """The part of each sample, and its row in the dataset of this part."""
        return self._order.locate(numbers)

    def read(self, numbers: Indices, *, vocab_size: int) -> Windows:
        """The windows of these samples, which are at least one: (len(numbers), 3, M).

        Raises:
            InvalidDataError: a token id is outside the vocabulary; names the part.
        """
        began = time.monotonic()
        owners, rows = self.locate(numbers)
        own = self.parts[0].dataset
        windows = np.empty((len(numbers), len(own.features), own.max_sequence_length), dtype=np.int32)
        for number in np.unique(owners):
            part, places = self.parts[number], owners == number
            windows[places] = part.dataset.rows(rows[places])
            check_ids(windows[places], vocab_size=vocab_size, field=part.field)
        self._reads.note(numbers, owners, rows, seconds=time.monotonic() - began)
        return windows

    def epochs(self, samples: int) -> list[float]:
        """How often each part was read once that many samples were."""
        counts = self._shares.counts(np.array([samples]))[:, 0]
        return [int(count) / len(part.ranges) for count, part in zip(counts, self.parts, strict=True)]

    def steps_of_one_pass(self, batch_size: int) -> int:
        """Steps after which every window of the job's own dataset was read."""
        return math.ceil(len(self.parts[0].ranges) / self.shares[0] / batch_size)
