"""What a split looks like: tokens, lengths, tokens per word. Gathered as documents pass by, in constant memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_BUCKETS = 24
"""Powers of two: documents of up to 8 million tokens have a bucket of their own, longer ones share the last."""


_WORDS_EVERY = 16
"""Words are counted in every so many-th document, the first among them."""


class TextStats:
    """Counts of one split."""

    def __init__(self) -> None:
        self.documents = 0
        self._words = self._words_tokens = 0
        self.tokens = 0
        self.longest = 0
        self._buckets = np.zeros(_BUCKETS, dtype=np.int64)

    def add(self, texts: Sequence[str], lengths: Sequence[int]) -> None:
        """Documents with their number of tokens (EOS not counted)."""
        if not texts:
            return
        # Splitting every text into words would take longer than tokenising it.
        for number in range(-self.documents % _WORDS_EVERY, len(texts), _WORDS_EVERY):
            self._words += len(texts[number].split())
            self._words_tokens += int(lengths[number])
        self.documents += len(texts)
        sizes = np.asarray(lengths, dtype=np.int64)
        self.tokens += int(sizes.sum())
        self.longest = max(self.longest, int(sizes.max()))
        # A document of n tokens is in bucket b when 2^(b-1) < n <= 2^b; bucket 0 has 0 and 1.
        buckets = np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
        np.add.at(self._buckets, np.minimum(buckets, _BUCKETS - 1), 1)

    def summary(self) -> dict[str, Any]:
        """For the corpus report; `lengths` has the upper bound in tokens and the documents of each filled bucket."""
        filled = np.flatnonzero(self._buckets)
        last = int(filled[-1]) + 1 if filled.size else 0
        return {
            "tokens_per_word": round(self._words_tokens / self._words, 4) if self._words else None,
            "tokens_per_document": round(self.tokens / self.documents, 2) if self.documents else None,
            "longest_document_tokens": self.longest,
            "lengths": [[2**bucket, int(self._buckets[bucket])] for bucket in range(last)],
        }
