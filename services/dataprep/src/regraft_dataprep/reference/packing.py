"""The windows of the two original generations, token for token.

A document ends with EOS and follows what the one before it left over (the carry). Windows of M + 1 tokens, one token
shared by neighbours, are cut from it; what is too short for a window is the next carry, and the last carry of a
process is dropped. Two rules differ:

    generation A (`preprocessed_text`)   a rest of exactly M tokens is a window, too: M - 1 pairs and one padded place;
                                         the next document then starts without a carry
    generation B (`LMData`)              it is carried; without packing, each document's rest is padded and kept,
                                         unless it has fewer than `min_sequence_len` tokens

`short_seq_prob` cuts a window to 2 to M - 1 tokens, by random numbers seeded for each process.

Not for new work: `regraft_dataprep.windows` has one rule and loses nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Windows = npt.NDArray[np.int32]
"""Shape (k, 3, M): input_ids, loss mask, labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How windows are cut. `keep_m_tokens` is generation A's quirk."""

    max_seq_length: int
    pad_id: int
    keep_m_tokens: bool
    pack: bool = True
    min_sequence_len: int = 0
    short_seq_prob: float = 0.0
    inverted_mask: bool = False


class ReferencePacker:
    """One process's stream of documents. Holds at most M tokens between calls."""

    def __init__(self, rules: Rules, *, seed: int) -> None:
        self.rules = rules
        self.dropped = 0
        """Tokens discarded so far, without the carry."""
        self.carry: Tokens = np.empty(0, dtype=np.int32)
        self._random = random.Random(seed)

    def add(self, document: Sequence[int]) -> Windows:
        """Append a document (token ids with its EOS); the windows it completes."""
        length = self.rules.max_seq_length
        stream = np.concatenate([self.carry, np.asarray(document, dtype=np.int32)])
        full = max(len(stream) - 1, 0) // length
        rest = stream[full * length :].copy()
        keep_rest = self._is_a_window(rest, full=full)
        block = self._cut(stream, full=full, rest=rest if keep_rest else rest[:0])
        self.carry = rest if self.rules.pack and not keep_rest else rest[:0]
        self._shorten(block)
        if self.rules.inverted_mask:
            block[:, 1] = 1 - block[:, 1]
        return block

    def state(self) -> dict[str, Any]:
        """What `restore` needs, fit for JSON. The random state only where random numbers are drawn."""
        drawn = self._random.getstate() if self.rules.short_seq_prob else None
        return {"carry": self.carry.tolist(), "dropped": self.dropped, "random": drawn}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.carry = np.asarray(state["carry"], dtype=np.int32)
        self.dropped = state["dropped"]
        if state["random"] is not None:
            version, numbers, gauss = state["random"]
            self._random.setstate((version, tuple(numbers), gauss))

    def _is_a_window(self, rest: Tokens, *, full: int) -> bool:
        if self.rules.pack:
            return self.rules.keep_m_tokens and len(rest) == self.rules.max_seq_length
        kept = len(rest) >= max(2, self.rules.min_sequence_len)
        if not kept:
            self.dropped += len(rest) - min(full, 1)  # the first token of a rest is the window before's last label
        return kept

    def _cut(self, stream: Tokens, *, full: int, rest: Tokens) -> Windows:
        length, pad = self.rules.max_seq_length, self.rules.pad_id
        block = np.full((full + bool(len(rest)), 3, length), pad, dtype=np.int32)
        block[:, 1] = 0
        used = full * length
        block[:full, 0] = stream[:used].reshape(full, length)
        block[:full, 1] = 1
        block[:full, 2] = stream[1 : used + 1].reshape(full, length) if full else 0
        if len(rest):
            pairs = len(rest) - 1
            block[full, 0, :pairs], block[full, 1, :pairs], block[full, 2, :pairs] = rest[:-1], 1, rest[1:]
        return block

    def _shorten(self, block: Windows) -> None:
        if not self.rules.short_seq_prob:
            return
        for window in block:
            if self._random.random() < self.rules.short_seq_prob:
                pairs = self._random.randint(2, self.rules.max_seq_length - 1) - 1
                self.dropped += int(window[1, pairs:].sum())
                window[0, pairs:] = window[2, pairs:] = self.rules.pad_id
                window[1, pairs:] = 0
