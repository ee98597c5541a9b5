"""The chronological split: the latest documents are held out.

A model that is judged on later news than it was trained on is judged on what it will meet. The trade-off: the two
parts differ in topic, so a held-out loss is not comparable with that of a random split.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError

Mask = npt.NDArray[np.bool_]


def chronological_split(timestamps: npt.NDArray[Any], *, ids: npt.NDArray[Any], fraction: float) -> Mask:
    """Which documents are held out: the latest `fraction`, rounded, at least one document on each side.

    Args:
        timestamps: of each document in the order of the corpus; anything that sorts, usually datetime64[s].
        ids: decide between equal timestamps; equal ids too are ordered by position.
        fraction: share that is held out.

    Raises:
        InvalidDataError: fewer than two documents.
    """
    count = len(timestamps)
    if count < 2:
        raise InvalidDataError(
            "a corpus needs two documents with text at least, one to train on and one to hold out",
            field="dataset.uri",
            value=count,
            remedy="Add documents.",
            reason="corpus_too_small",
        )
    held_out = min(max(round(fraction * count), 1), count - 1)
    order = np.lexsort((ids, timestamps))  # a stable sort, last key first
    mask = np.zeros(count, dtype=np.bool_)
    mask[order[count - held_out :]] = True
    return mask
