"""What a split looks like: lengths, tokens per word, languages. From token counts, and from a sample that is decoded.

The trade-off: words and languages come from some hundred documents spread evenly over a split, as decoding everything
would take longer than tokenising it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import py3langid

_BUCKETS = 24
"""Powers of two: documents of up to 8 million tokens have a bucket of their own, longer ones share the last."""

_AT_ONCE = 2**20  # documents

SAMPLE_DOCUMENTS = 256
SAMPLE_TOKENS = 1024
LANGUAGE_DOCUMENTS = 64
_LANGUAGE_CHARACTERS = 1000
_LANGUAGE_LEAST = 40  # shorter texts are not guessed at


def length_stats(tokens: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """For the corpus report, from each document's number of tokens without EOS.

    `lengths` has the upper bound in tokens and the documents of each bucket up to the last filled one.
    """
    counts = np.zeros(_BUCKETS, dtype=np.int64)
    for start in range(0, len(tokens), _AT_ONCE):
        sizes = tokens[start : start + _AT_ONCE].astype(np.int64)
        # A document of n tokens is in bucket b when 2^(b-1) < n <= 2^b; bucket 0 has 0 and 1.
        buckets = np.minimum(np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64), _BUCKETS - 1)
        counts += np.bincount(buckets, minlength=_BUCKETS)
    filled = np.trim_zeros(counts, "b").tolist()
    return {
        "tokens_per_document": round(int(tokens.sum(dtype=np.int64)) / len(tokens), 2) if len(tokens) else None,
        "longest_document_tokens": int(tokens.max(initial=0)),
        "lengths": [[2**bucket, count] for bucket, count in enumerate(filled)],
    }


def evenly_spaced(rows: npt.NDArray[np.int64], count: int = SAMPLE_DOCUMENTS) -> npt.NDArray[np.int64]:
    """At most `count` of the rows, the first among them."""
    return rows[np.unique(np.linspace(0, len(rows), min(count, len(rows)), endpoint=False, dtype=np.int64))]


def tokens_per_word(sample: Iterable[tuple[str, int]]) -> float | None:
    """Of texts with their numbers of tokens; words are what white space parts."""
    words = tokens = 0
    for text, count in sample:
        words += len(text.split())
        tokens += count
    return round(tokens / words, 4) if words else None


def languages(texts: Sequence[str]) -> dict[str, float]:
    """Share of each language that is guessed (ISO 639-1), the most frequent first; of texts long enough to tell."""
    texts = texts[:: max(1, len(texts) // LANGUAGE_DOCUMENTS)]  # a guess takes a millisecond
    guesses = Counter(
        py3langid.classify(text[:_LANGUAGE_CHARACTERS])[0] for text in texts if len(text.strip()) >= _LANGUAGE_LEAST
    )
    total = guesses.total()
    return {language: round(count / total, 4) for language, count in guesses.most_common()}
