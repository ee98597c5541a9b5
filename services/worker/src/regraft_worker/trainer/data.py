"""Which windows a step reads, and reading them.

Epoch e visits every window once, in the order `torch.randperm` draws with the seed `seed + e` (file order when not
shuffled). Batches are cut from the epochs laid end to end: what an epoch leaves over starts the next batch, so every
batch is full and none is lost. The windows of a step are a pure function of (n, seed, batch size, step): a resumed run
needs the step and nothing else, and the order does not depend on the hardware.

The permutation of the current epoch is held in memory, 8 bytes per window. Not for corpora of billions of windows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.errors import InvalidDataError
from regraft.hdf5 import Dataset

Indices = NDArray[np.int64]
ROWS = ("input_ids", "attention_mask", "labels")  # axis 1 of a dataset


class SampleOrder:
    """Windows by step."""

    def __init__(self, n: int, *, seed: int, batch_size: int, shuffle: bool) -> None:
        assert n > 0, "there is at least one window"
        self.n = n
        self.seed = seed
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._epoch = -1
        self._order: Indices = np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> Indices:
        """The windows of step `step`, counted from 1: (batch_size,)."""
        assert step >= 1, "steps are counted from 1"
        first = (step - 1) * self.batch_size
        wanted = np.arange(first, first + self.batch_size)
        epochs, places = np.divmod(wanted, self.n)
        out = np.empty_like(wanted)
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


def read_batch(dataset: Dataset, indices: Indices, *, vocab_size: int, device: str) -> dict[str, Tensor]:
    """The features of these windows: three int32 (B, S) tensors.

    Raises:
        InvalidDataError: a token id is outside the vocabulary.
    """
    rows = dataset.rows(indices)  # (B, 3, S)
    _check_ids(rows[:, 0], vocab_size)
    _check_ids(rows[:, 2], vocab_size)
    return {name: torch.from_numpy(np.ascontiguousarray(rows[:, i])).to(device) for i, name in enumerate(ROWS)}


def has_windows(folder: Path) -> bool:
    """True when the folder of a split has any file."""
    return any(folder.glob("*.h5"))


def _check_ids(ids: NDArray[np.int32], vocab_size: int) -> None:
    # An id beyond the embedding reads other memory on some devices and aborts the process on others: say it here.
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise InvalidDataError(
            f"a token id is outside the model's vocabulary of {vocab_size}",
            field="dataset",
            value=low if low < 0 else high,
            remedy="Prepare the dataset with the tokenizer of this checkpoint.",
            reason="token_out_of_vocabulary",
        )
