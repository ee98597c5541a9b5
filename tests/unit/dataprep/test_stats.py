"""Counts and length buckets of a split, and what its sample tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from regraft_dataprep.stats import SAMPLE_DOCUMENTS, evenly_spaced, languages, length_stats, tokens_per_word


def lengths(tokens: Sequence[int]) -> dict[str, Any]:
    return length_stats(np.array(tokens, dtype=np.int64))


def test_lengths_are_counted_in_powers_of_two() -> None:
    assert lengths([3, 1, 9]) == {
        "tokens_per_document": pytest.approx(13 / 3, abs=1e-2),
        "longest_document_tokens": 9,
        "lengths": [[1, 1], [2, 0], [4, 1], [8, 0], [16, 1]],
    }


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 8, 9, 1023, 1024, 1025])
def test_a_bucket_is_named_by_its_upper_bound(tokens: int) -> None:
    bound, count = lengths([tokens])["lengths"][-1]
    assert count == 1
    assert bound >= tokens
    assert bound == 1 or bound < 2 * tokens


def test_a_split_without_documents_divides_by_nothing() -> None:
    assert lengths([]) == {"tokens_per_document": None, "longest_document_tokens": 0, "lengths": []}
    assert tokens_per_word([]) is None
    assert tokens_per_word([(" \n", 3)]) is None
    assert languages([]) == {}


def test_a_document_beyond_all_buckets_is_counted_in_the_last() -> None:
    found = lengths([2**40, 2**23])["lengths"]
    assert found[-1] == [2**23, 2]


def test_words_are_what_white_space_parts() -> None:
    assert tokens_per_word([("one two", 3), ("three\n\tfour ", 5)]) == 2.0


@pytest.mark.parametrize("count", [0, 1, 3, SAMPLE_DOCUMENTS, SAMPLE_DOCUMENTS + 1, 100_000])
def test_a_sample_is_spread_evenly_and_begins_with_the_first(count: int) -> None:
    rows = np.arange(count) * 3 + 5
    found = evenly_spaced(rows)
    assert len(found) == min(count, SAMPLE_DOCUMENTS)
    assert found.tolist() == sorted(set(found.tolist()) & set(rows.tolist()))
    if count:
        assert found[0] == 5
        gaps = np.diff([*found.tolist(), 5 + 3 * count])
        assert gaps.max() - gaps.min() <= 3


def test_the_most_frequent_language_comes_first_and_short_texts_are_not_guessed_at() -> None:
    english = "The shares of the bank rose on Monday after the market had opened in London."
    german = "Die Aktien der Bank stiegen am Montag, nachdem der Markt in Frankfurt eröffnet hatte."
    assert languages([german, english, english, "kurz", english]) == {"en": 0.75, "de": 0.25}
