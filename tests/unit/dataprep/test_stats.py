"""Counts and length buckets of a split."""

import numpy as np
import pytest

from regraft_dataprep.stats import TextStats


def test_tokens_and_lengths_add_up_over_batches() -> None:
    stats = TextStats()
    stats.add(["one two", "three"], [3, 1])
    stats.add([], [])
    stats.add(["four five six"], [9])
    assert stats.summary() == {
        "tokens_per_word": 1.5,
        "tokens_per_document": pytest.approx(13 / 3, abs=1e-2),
        "longest_document_tokens": 9,
        "lengths": [[1, 1], [2, 0], [4, 1], [8, 0], [16, 1]],
    }


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 8, 9, 1023, 1024, 1025])
def test_a_bucket_is_named_by_its_upper_bound(tokens: int) -> None:
    stats = TextStats()
    stats.add(["x"], np.array([tokens]))
    bound, count = stats.summary()["lengths"][-1]
    assert count == 1
    assert bound >= tokens
    assert bound == 1 or bound < 2 * tokens


def test_a_split_without_documents_divides_by_nothing() -> None:
    summary = TextStats().summary()
    assert (summary["tokens_per_word"], summary["tokens_per_document"], summary["lengths"]) == (None, None, [])


def test_a_document_beyond_all_buckets_is_counted_in_the_last() -> None:
    stats = TextStats()
    stats.add(["x"], [2**40])
    assert sum(count for _, count in stats.summary()["lengths"]) == 1


def test_words_are_counted_in_the_same_documents_however_they_come() -> None:
    texts = ["word " * (number + 1) for number in range(50)]
    found = []
    for size in (1, 7, 16, 50):
        stats = TextStats()
        for start in range(0, 50, size):
            part = texts[start : start + size]
            stats.add(part, [3 * len(text.split()) for text in part])
        found.append(stats.summary()["tokens_per_word"])
    assert found == [3.0] * 4
