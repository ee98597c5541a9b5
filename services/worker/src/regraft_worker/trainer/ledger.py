"""Which samples a run has read, step by step: compact, and evidence rather than a promise.

The order of the samples is a pure function of the parts, their numbers of windows, the seed and the batch size, so
those are kept instead of the numbers themselves. What makes it evidence are the fingerprints: each read of a window
adds a 64-bit hash of (sample number, part, row) to the fingerprint of its stretch of steps. They are taken where
windows are read, not where the order is computed; sums do not care which process read what. A sample read twice, left
out, or read in another's place changes the sum (missed once in 2^64).

Stretches end at checkpoints. There are at most `MAX_SEGMENTS` of them: neighbours are merged, and a difference is then
located less closely.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from regraft.specs import Spec

MAX_SEGMENTS = 512
_MASK = 2**64 - 1


class LedgerPart(Spec):
    """One dataset that samples come from."""

    uri: str
    """Where it lay; not part of what identifies it."""
    address: str | None
    files: str | None
    """Without an address: a digest of what its files say."""
    windows: int
    """In the whole dataset."""
    data_subset: str | None
    weight: float


class Segment(Spec):
    """A stretch of steps."""

    first: int
    last: int
    fingerprint: str
    """16 hex digits."""


class Ledger(Spec):
    """Of one run, up to a step."""

    seed: int
    shuffle: bool
    batch_size: int
    parts: tuple[LedgerPart, ...]
    segments: tuple[Segment, ...] = ()

    @property
    def identity(self) -> str:
        """The same for runs that read the same samples in the same order, wherever their datasets lie: 16 digits."""
        said = self.model_dump(mode="json", exclude={"segments": True, "parts": {"__all__": {"uri"}}})
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def last(self) -> int:
        """The last step that is in it."""
        return self.segments[-1].last if self.segments else 0

    def extended(self, *, to: int, fingerprint: int) -> Ledger:
        """With the steps after the last one up to `to`, read with this fingerprint."""
        if to <= self.last:
            return self
        new = Segment(first=self.last + 1, last=to, fingerprint=_hex(fingerprint))
        return self.model_copy(update={"segments": _bounded((*self.segments, new))})


def fingerprints(numbers: NDArray[np.int64], parts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of each read, shape (len(numbers),): sample number, part and row, mixed one after the other."""
    mixed = np.zeros(len(numbers), dtype=np.uint64)
    for values in (numbers, parts, rows):
        mixed = _mix(mixed ^ values.astype(np.uint64))
    return mixed


def total(hashes: NDArray[np.uint64]) -> int:
    """Their sum modulo 2^64."""
    return int(hashes.sum(dtype=np.uint64))


def added(first: int, second: int) -> int:
    """Of two fingerprints."""
    return (first + second) & _MASK


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit depends on every bit (the finaliser of splitmix64); numbers wrap at 2^64."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def _bounded(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    if len(segments) <= MAX_SEGMENTS:
        return segments
    return tuple(_merged(*segments[at : at + 2]) for at in range(0, len(segments), 2))


def _merged(first: Segment, second: Segment | None = None) -> Segment:
    if second is None:
        return first
    fingerprint = added(int(first.fingerprint, 16), int(second.fingerprint, 16))
    return Segment(first=first.first, last=second.last, fingerprint=_hex(fingerprint))


def _hex(fingerprint: int) -> str:
    return f"{fingerprint:016x}"
