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
from regraft.specs.training import subset_ranges
from regraft_worker.trainer.data import Indices, SampleOrder, check_ids
from regraft_worker.trainer.ledger import fingerprints, total


class RowRanges:
    """Part of a dataset's windows, in file order; `subset` as in `TrainingSpec.data_subset`.

    A range ends with the window before floor(end * n), so that subsets that complement one another share no window
    and leave none out.
    """

    def __init__(self, n: int, subset: str | None = None) -> None:
        fractions = subset_ranges(subset or "0-1")
        bounds = np.array([[math.floor(start * n), math.floor(end * n)] for start, end in fractions], dtype=np.int64)
        self._ends = np.cumsum(bounds[:, 1] - bounds[:, 0])
        self._skipped = bounds[:, 1] - self._ends  # rows left out before the end of each range

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, places: Indices) -> Indices:
        """Row numbers in the dataset by number within the subset."""
        rows: Indices = places + self._skipped[np.searchsorted(self._ends, places, side="right")]
        return rows


class Shares:
    """How the samples are divided among several datasets. A weight of 0.3 is three tenths, not the nearest float."""

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(str(weight)) for weight in weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        self._weights = [int(weight * scale) for weight in exact]
        self.shares = tuple(Fraction(weight, sum(self._weights)) for weight in self._weights)

    def counts(self, numbers: Indices) -> Indices:
        """How many of the samples before each of these come from each dataset: (datasets, numbers)."""
        # As Python's own integers: weights such as 0.1234567 make products that leave 64 bits.
        left, rest = numbers.astype(object), sum(self._weights)
        counts = []
        for weight in self._weights[:-1]:
            counts.append((2 * left * weight + rest) // (2 * rest))
            left, rest = left - counts[-1], rest - weight
        return np.stack([*counts, left]).astype(np.int64)

    def place(self, numbers: Indices) -> tuple[Indices, Indices]:
        """The dataset of each sample, and the sample's position among those of this dataset."""
        before = self.counts(numbers)
        owners: Indices = (self.counts(numbers + 1) - before).argmax(axis=0)
        return owners, before[owners, np.arange(len(numbers))]


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
        self._orders = [SampleOrder(len(part.ranges), seed=seed, shuffle=shuffle) for part in parts]
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
        owners, positions = self._shares.place(numbers)
        rows = np.empty_like(positions)
        for number, (part, order) in enumerate(zip(self.parts, self._orders, strict=True)):
            own = owners == number
            rows[own] = part.ranges.rows(order.at(positions[own]))
        return owners, rows

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
