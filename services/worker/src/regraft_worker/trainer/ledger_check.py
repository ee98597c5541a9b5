"""What a ledger says, made readable and checked: samples of a step, a run against its order, two runs.

The order is computed again from what the ledger keeps and compared with the fingerprints of what was read. Costs some
nanoseconds per sample, and needs no dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import InvalidDataError, InvalidInputError
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.data import Indices, samples_of
from regraft_worker.trainer.folders import steps_in
from regraft_worker.trainer.ledger import Ledger, Segment, fingerprints, total
from regraft_worker.trainer.order import Order, RowRanges, Shares
from regraft_worker.trainer.state import TrainingState

_STEPS_AT_ONCE = 4096


@dataclass(frozen=True)
class Samples:
    """Samples in the order in which they were read."""

    numbers: Indices
    parts: Indices
    """Which of the ledger's parts each is from."""
    rows: Indices
    """Its window there."""


def find_state(run: Path) -> TrainingState:
    """Of a checkpoint, or of the newest one in a run's folder whose state can be read.

    Raises:
        InvalidInputError: there is none, or it was written by a version without ledgers.
    """
    folders = [run] if (run / "training_state").is_dir() else [folder for _, folder in sorted(steps_in(run))[::-1]]
    for folder in folders:
        try:
            state = checkpoint.read_state(folder)
        except InvalidDataError:
            continue
        if state.ledger is not None:
            return state
    raise InvalidInputError(
        "there is no checkpoint with a ledger here",
        field="run",
        value=str(run),
        remedy="Name the output folder of a training run, or one of its step-... folders.",
    )


def order_of(ledger: Ledger) -> Order:
    """The order in which the run reads, without its datasets."""
    ranges = [RowRanges(part.windows, part.data_subset) for part in ledger.parts]
    shares = Shares([part.weight for part in ledger.parts])
    return Order(ranges, shares, seed=ledger.seed, shuffle=ledger.shuffle)


def samples_at(ledger: Ledger, step: int, order: Order | None = None) -> Samples:
    """The samples of a step."""
    numbers = samples_of(step, batch_size=ledger.batch_size)
    return Samples(numbers, *(order or order_of(ledger)).locate(numbers))


def faults(ledger: Ledger) -> list[str]:
    """In words, where the run has read something else than its order says; empty: nowhere."""
    order = order_of(ledger)
    return [fault for segment in ledger.segments if (fault := _fault(ledger, segment, order)) is not None]


def difference(one: Ledger, other: Ledger) -> str | None:
    """In words, where two runs have read different samples within the steps that both have; None: nowhere."""
    if one.identity == other.identity:
        return _first_difference(one, other)
    last = min(one.last, other.last)
    orders = order_of(one), order_of(other)
    for step in range(1, last + 1):
        left, right = samples_at(one, step, orders[0]), samples_at(other, step, orders[1])
        if len(left.numbers) != len(right.numbers):
            return f"a step has {len(left.numbers)} samples in one run and {len(right.numbers)} in the other"
        if _named(one, left) != _named(other, right):
            return f"the samples differ from step {step} on"
    return None if last else "one of the two has read nothing"


def _fault(ledger: Ledger, segment: Segment, order: Order) -> str | None:
    expected = 0
    for numbers in _numbers(segment, ledger.batch_size):
        expected += total(fingerprints(numbers, *order.locate(numbers)))
    surplus = (int(segment.fingerprint, 16) - expected) % 2**64
    if not surplus:
        return None
    where = f"steps {segment.first} to {segment.last}: "
    for numbers in _numbers(segment, ledger.batch_size):
        hashes = fingerprints(numbers, *order.locate(numbers))
        for what, sought in (("was read twice", surplus), ("was not read", -surplus % 2**64)):
            found = numbers[hashes == np.uint64(sought)]
            if len(found):
                return f"{where}sample {found[0]} {what}"
    return f"{where}other samples were read than the order says"


def _first_difference(one: Ledger, other: Ledger) -> str | None:
    left, right = _totals(one), _totals(other)
    before = 0
    for step in sorted(left.keys() & right.keys()):
        if left[step] != right[step]:
            return f"what was read differs within steps {before + 1} to {step}"
        before = step
    return None


def _totals(ledger: Ledger) -> dict[int, int]:
    """Last step of a segment to the fingerprint of everything up to it."""
    sums, reached = {}, 0
    for segment in ledger.segments:
        reached = (reached + int(segment.fingerprint, 16)) % 2**64
        sums[segment.last] = reached
    return sums


def _named(ledger: Ledger, samples: Samples) -> list[tuple[str | None, int]]:
    """Samples by what their dataset is, and row."""
    names = [part.address or part.files for part in ledger.parts]
    return [(names[part], int(row)) for part, row in zip(samples.parts, samples.rows, strict=True)]


def _numbers(segment: Segment, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """All samples of a segment, some steps at a time."""
    for first in range(segment.first, segment.last + 1, _STEPS_AT_ONCE):
        last = min(first + _STEPS_AT_ONCE - 1, segment.last)
        yield np.arange((first - 1) * batch_size, last * batch_size)
