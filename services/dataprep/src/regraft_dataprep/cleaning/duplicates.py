"""Documents that are there already, exactly or nearly.

Memory grows with the number of documents: about 100 bytes each for exact duplicates, about 1 kB for near ones. Of a
group of duplicates the first in the corpus stays; near duplicates are not chained: each is compared with what was kept.
"""

from __future__ import annotations

import hashlib

from rensa import RMinHash, RMinHashLSH

from regraft.specs.cleaning import NearDuplicates as Options

_PERMUTATIONS = 128
_SEED = 42
_WORDS = 3


class ExactDuplicates:
    """Remembers a 128-bit digest of every text."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def check(self, text: str) -> str | None:
        """The text, or None when it was seen before."""
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self._seen:
            return None
        self._seen.add(digest)
        return text


class NearDuplicates:
    """MinHash signatures in a locality-sensitive index; candidates are then compared signature by signature."""

    def __init__(self, options: Options) -> None:
        self._threshold = options.threshold
        bands = _bands(options.threshold)
        self._index = RMinHashLSH(threshold=options.threshold, num_perm=_PERMUTATIONS, num_bands=bands)
        self._kept: list[RMinHash] = []

    def check(self, text: str) -> str | None:
        """The text, or None when it is much like one that was kept."""
        signature = RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
        signature.update(_shingles(text))
        if any(signature.jaccard(self._kept[key]) >= self._threshold for key in self._index.query(signature)):
            return None
        self._index.insert(len(self._kept), signature)
        self._kept.append(signature)
        return text


def _shingles(text: str) -> list[str]:
    """Runs of three words; all of a shorter text."""
    words = text.casefold().split()
    count = max(1, len(words) - _WORDS + 1)
    return [" ".join(words[start : start + _WORDS]) for start in range(count)]


def _bands(threshold: float) -> int:
    """As many bands as find a pair at the threshold with 99 %: 1 - (1 - t^rows)^bands, rows = permutations / bands."""
    for bands in (4, 8, 16, 32, 64):
        if 1 - (1 - threshold ** (_PERMUTATIONS // bands)) ** bands >= 0.99:
            return bands
    return _PERMUTATIONS
