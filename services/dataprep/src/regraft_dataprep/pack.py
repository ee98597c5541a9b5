"""Packs documents into training windows without padding between them and without losing a token.

Every document is closed by EOS, all of them form one stream, and the stream is cut into windows of M + 1 tokens that
overlap by one: a window's first M tokens are its inputs, its last M its labels. So each token of the stream but the
very first is a label exactly once. This is the packing of the Cerebras tool's `LMData` mode, except that the last,
short window is padded and kept, not dropped.

The trade-off: attention crosses document borders inside a window. Not for instruction data, where it must not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Windows = npt.NDArray[np.int32]
"""Shape (k, 3, M): input_ids, loss mask, labels."""


class Packer:
    """One stream of documents, fed in batches. Holds at most M tokens between calls."""

    def __init__(self, max_sequence_length: int, eos_id: int) -> None:
        self.max_sequence_length = max_sequence_length
        self.eos_id = eos_id
        self.tokens = 0
        """Tokens of the stream so far, each document's EOS among them."""
        self._carry: Tokens = np.empty(0, dtype=np.int32)

    def add(self, documents: Sequence[npt.ArrayLike]) -> Windows:
        """Append documents (token ids without EOS); the windows that are full now.

        Arrays of int32 are best: nothing is done per token, and each is copied once into the stream.
        """
        eos = np.array([self.eos_id], dtype=np.int32)
        parts = [self._carry]
        for ids in documents:
            parts += (np.asarray(ids, dtype=np.int32), eos)
        stream = np.concatenate(parts)
        self.tokens += len(stream) - len(self._carry)
        return self._cut(stream)

    def finish(self) -> Windows:
        """What is left as one window, padded with EOS under mask 0; none when no label is left."""
        pairs = max(len(self._carry) - 1, 0)
        block = self._empty_block(min(pairs, 1))
        if pairs:
            block[0, 0, :pairs], block[0, 2, :pairs] = self._carry[:-1], self._carry[1:]
            block[0, 1, :pairs] = 1
        self._carry = self._carry[:0]
        return block

    def _cut(self, stream: Tokens) -> Windows:
        # The last token of the last window stays: it is the next window's first input.
        used = max(len(stream) - 1, 0) // self.max_sequence_length * self.max_sequence_length
        block = np.empty((used // self.max_sequence_length, 3, self.max_sequence_length), dtype=np.int32)
        block[:, 0] = stream[:used].reshape(-1, self.max_sequence_length)
        block[:, 1] = 1
        block[:, 2] = stream[1 : used + 1].reshape(-1, self.max_sequence_length)
        self._carry = stream[used:].copy()
        return block

    def _empty_block(self, count: int) -> Windows:
        block = np.full((count, 3, self.max_sequence_length), self.eos_id, dtype=np.int32)
        block[:, 1] = 0
        return block
