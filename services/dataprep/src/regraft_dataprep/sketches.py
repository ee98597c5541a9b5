"""Sketches of documents, from their token ids: what near duplicates and overlapping splits are found by.

Two kinds, both from hashes of token triples. The MinHash signature of a document (rensa, 128 numbers) estimates the
share of triples that two documents have in common. Sampled spans are the hashes of 13 consecutive tokens where the
triple at their start falls into one class of 64: the same stretch of text is sampled in either split, whatever stands
around it, so the share of held-out spans that the train split has too estimates the share of text seen in training.
Thirteen is what GPT-3's study of contamination used (Brown et al. 2020, appendix C).

Everything is vectorised over a batch of documents. The trade-off: a hash of tokens depends on the tokenizer, so
sketches of two datasets are not to be compared.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from regraft_dataprep.pieces import SIGNATURE

SPAN = 13
_TRIPLE = 3
_CLASS = np.uint64(63)  # one in 64
_SEED = 42
_BLOCK = 32_768
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_STEP = np.uint64(0x100000001B3)

Hashes = npt.NDArray[np.uint64]


def triples(ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> Hashes:
    """A hash for every token and the two after it; shape (tokens,).

    Where a triple would reach into the next document there is the hash of the document's first one again, or, in a
    document of one or two tokens, of what it has: so the set of a document's hashes depends on it alone.
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    hashes = _of_triples(ids)
    for size in range(1, _TRIPLE):
        short = starts[lengths == size]
        whole = _mixed(sum(ids[short + at].astype(np.uint64) * _FACTORS[at] for at in range(size)))
        for at in range(size):
            hashes[short + at] = whole
    long = lengths >= _TRIPLE
    for back in range(1, _TRIPLE):
        hashes[ends[long] - back] = hashes[starts[long]]
    return hashes


def signatures(hashes: Hashes, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """MinHash signatures, shape (documents, 128)."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, SIGNATURE, _SEED)
    numbers = chain.from_iterable(matrix.to_rows())
    return np.fromiter(numbers, dtype=np.uint32, count=len(lengths) * SIGNATURE).reshape(-1, SIGNATURE)


def sampled_spans(
    ids: npt.NDArray[Any], hashes: Hashes, lengths: npt.NDArray[np.int64]
) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of the sampled spans, and how many each document has."""
    ends = np.cumsum(lengths)
    places = np.flatnonzero((hashes & _CLASS) == 0)
    owners = np.searchsorted(ends, places, side="right")
    inside = places + SPAN <= ends[owners]
    places, owners = places[inside], owners[inside]
    spans = np.zeros(len(places), dtype=np.uint64)
    for at in range(SPAN):
        spans = (spans ^ ids[places + at].astype(np.uint64)) * _STEP
    return _mixed(spans), np.bincount(owners, minlength=len(lengths))


def _of_triples(ids: npt.NDArray[Any]) -> Hashes:
    """Of every id and the two after it, zeros behind the last; in place, in blocks that fit the cache: a third of the
    time that whole arrays take."""
    hashes = np.empty(len(ids), dtype=np.uint64)
    for start in range(0, len(ids), _BLOCK):
        block = hashes[start : start + _BLOCK]
        wide = np.zeros(len(block) + _TRIPLE - 1, dtype=np.uint64)
        found = ids[start : start + len(wide)]
        wide[: len(found)] = found
        part = np.empty_like(block)
        np.multiply(wide[: len(block)], _FACTORS[0], out=block)
        for at in range(1, _TRIPLE):
            block += np.multiply(wide[at : at + len(block)], _FACTORS[at], out=part)
        _mixed(block, part)
    return hashes


def _mixed(hashes: Hashes, part: Hashes | None = None) -> Hashes:
    """In place; `part` is room for as many."""
    part = np.empty_like(hashes) if part is None else part
    hashes ^= np.right_shift(hashes, np.uint64(32), out=part)
    hashes *= _MIX
    hashes ^= np.right_shift(hashes, np.uint64(29), out=part)
    return hashes
