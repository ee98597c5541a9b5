"""Which documents are held out: the latest ones, those that a hash chooses, or the last ones.

A model that is judged on later news than it was trained on is judged on what it will meet; the two parts then differ
in topic, so a held-out loss is not comparable with that of a random split. A hash of a document's id keeps it on its
side when the corpus grows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError

Mask = npt.NDArray[np.bool_]


def chronological_split(timestamps: npt.NDArray[Any], *, fraction: float) -> Mask:
    """Which documents are held out: the latest `fraction`, rounded, at least one document on each side.

    Args:
        timestamps: of each document in the order of the corpus; anything that sorts. Equal ones are in that order.
        fraction: share that is held out.

    Raises:
        InvalidDataError: fewer than two documents.
    """
    count = _enough(len(timestamps))
    held_out = min(max(round(fraction * count), 1), count - 1)
    mask = np.zeros(count, dtype=np.bool_)
    mask[np.argsort(timestamps, kind="stable")[count - held_out :]] = True
    return mask


def last_split(count: int, *, fraction: float) -> Mask:
    """Which of `count` documents are held out: the last `fraction`, rounded down, as the documented split of TRC2 does.

    Raises:
        InvalidDataError: fewer than two documents, or none of them would be held out.
    """
    held_out = int(fraction * _enough(count))
    if not held_out:
        raise InvalidDataError(
            f"{fraction:g} of {count} documents, rounded down, are none to hold out",
            field="dataset.validation.fraction",
            value=fraction,
            remedy="Hold out a larger share, or make more documents: with fewer reading.lines_per_shard, say.",
            reason="empty_split",
        )
    return np.arange(count) >= count - held_out


def hashed_split(keys: npt.NDArray[np.uint64], *, fraction: float) -> Mask:
    """Which documents are held out: those whose hash lies in the lowest `fraction` of all hashes.

    Raises:
        InvalidDataError: fewer than two documents, or all of them on one side.
    """
    _enough(len(keys))
    mask = keys < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if mask.all() or not mask.any():
        raise InvalidDataError(
            f"all {len(keys)} documents fall on one side of the split",
            field="dataset.validation",
            value=fraction,
            remedy="Hold out another fraction, or split so small a corpus chronologically.",
            reason="empty_split",
        )
    return mask


def _enough(count: int) -> int:
    if count < 2:
        raise InvalidDataError(
            "a corpus needs two documents after cleaning at least, one to train on and one to hold out",
            field="dataset.uri",
            value=count,
            remedy="Add documents, or clean less.",
            reason="corpus_too_small",
        )
    return count
