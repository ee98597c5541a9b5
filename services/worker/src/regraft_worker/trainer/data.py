"""The order in which the windows of one dataset are read, and windows as the model takes them.

Epoch e visits every window once, in the order `torch.randperm` draws with the seed `seed + e` (file order when not
shuffled). Epochs are laid end to end, and batches are cut from that: what an epoch leaves over starts the next batch,
so every batch is full and none is lost. Which window is read as the i-th is a pure function of (n, seed, i): a resumed
run needs the step and nothing else, and the order does not depend on the hardware or on who reads which part of it.

The permutation of the current epoch is held in memory, 8 bytes per window. Not for corpora of billions of windows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.errors import InvalidDataError
from regraft.hdf5 import FEATURES, INPUT_IDS, LABELS, SPAN_FEATURES, Windows

Indices = NDArray[np.int64]


class SampleOrder:
    """Windows by position."""

    def __init__(self, n: int, *, seed: int, shuffle: bool) -> None:
        assert n > 0, "there is at least one window"
        self.n = n
        self.seed = seed
        self.shuffle = shuffle
        self._epoch = -1
        self._order: Indices = np.empty(0, dtype=np.int64)

    def at(self, positions: Indices) -> Indices:
        """The windows at these positions of the epochs laid end to end, counted from 0."""
        epochs, places = np.divmod(positions, self.n)
        out = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            out[chosen] = self._order_of(int(epoch))[places[chosen]]
        return out

    def _order_of(self, epoch: int) -> Indices:
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._draw(epoch)
        return self._order

    def _draw(self, epoch: int) -> Indices:
        if not self.shuffle:
            return np.arange(self.n)
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(self.n, generator=generator).numpy()


def samples_of(step: int, *, batch_size: int) -> Indices:
    """The numbers of the samples that make the batch of a step, which is counted from 1: (batch_size,)."""
    assert step >= 1, "steps are counted from 1"
    return np.arange((step - 1) * batch_size, step * batch_size)


def as_features(windows: Windows, *, device: str) -> dict[str, Tensor]:
    """Windows (B, 3 or 5, S) as that many int32 (B, S) tensors."""
    names = FEATURES if windows.shape[1] == len(FEATURES) else SPAN_FEATURES
    return {name: torch.from_numpy(np.ascontiguousarray(windows[:, i])).to(device) for i, name in enumerate(names)}


def check_ids(windows: Windows, *, vocab_size: int, field: str = "dataset") -> None:
    """Ids and labels, which are at least one, are within the vocabulary.

    Raises:
        InvalidDataError: one is not.
    """
    # An id beyond the embedding reads other memory on some devices and aborts the process on others: say it here.
    for row in (INPUT_IDS, LABELS):
        low, high = int(windows[:, row].min()), int(windows[:, row].max())
        if low < 0 or high >= vocab_size:
            raise InvalidDataError(
                f"a token id is outside the model's vocabulary of {vocab_size}",
                field=field,
                value=low if low < 0 else high,
                remedy="Prepare the dataset with the tokenizer of this checkpoint.",
                reason="token_out_of_vocabulary",
            )


def has_windows(folder: Path) -> bool:
    """True when the folder of a split has any file."""
    return any(folder.glob("*.h5"))
