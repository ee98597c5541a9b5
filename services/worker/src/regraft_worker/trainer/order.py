"""The order of the samples of several datasets: a function of the sample's number, and of nothing that is in them.

How it is made, and what it trades away, is said in mixture.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from regraft.specs.training import subset_ranges
from regraft_worker.trainer.data import Indices, SampleOrder


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


class Order:
    """Samples by number: the part each comes from, and its row there."""

    def __init__(self, ranges: Sequence[RowRanges], shares: Shares, *, seed: int, shuffle: bool) -> None:
        self._ranges, self._shares = tuple(ranges), shares
        self._orders = [SampleOrder(len(rows), seed=seed, shuffle=shuffle) for rows in ranges]

    def locate(self, numbers: Indices) -> tuple[Indices, Indices]:
        """The part of each sample, and its row in the dataset of this part."""
        owners, positions = self._shares.place(numbers)
        rows = np.empty_like(positions)
        for number, (ranges, order) in enumerate(zip(self._ranges, self._orders, strict=True)):
            own = owners == number
            rows[own] = ranges.rows(order.at(positions[own]))
        return owners, rows
