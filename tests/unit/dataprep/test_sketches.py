"""Sketches: of a document alone, whatever stands around it; and as exact as their theory says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft_dataprep.pieces import SIGNATURE
from regraft_dataprep.sketches import SPAN, Hashes, sampled_spans, signatures, triples

Sketch = Callable[[npt.NDArray[Any], npt.NDArray[np.int64]], Hashes]

DOCUMENTS = st.lists(st.lists(st.integers(0, 3), max_size=7), min_size=1, max_size=8)


def flat(documents: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    ids = np.array([token for document in documents for token in document], dtype="<u2")
    return ids, np.array([len(document) for document in documents], dtype=np.int64)


def each(hashes: Hashes, documents: Sequence[Sequence[int]]) -> list[list[int]]:
    ends = np.cumsum([len(document) for document in documents])
    return [hashes[end - len(own) : end].tolist() for end, own in zip(ends, documents, strict=True)]


def check_alone(sketch: Sketch, documents: Sequence[Sequence[int]]) -> None:
    """A document's hashes are those that it has with nothing around it."""
    together = each(sketch(*flat(documents)), documents)
    assert together == [sketch(*flat([document])).tolist() for document in documents]


@given(DOCUMENTS)
@settings(deadline=None, max_examples=200)
def test_the_hashes_of_a_document_depend_on_it_alone(documents: list[list[int]]) -> None:
    check_alone(triples, documents)


def test_the_check_notices_triples_that_reach_into_the_next_document() -> None:
    def leaking(ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> Hashes:
        return triples(ids, np.array([len(ids)]))

    documents = [[1, 2, 3, 4], [5, 6, 7, 8]]
    check_alone(triples, documents)
    with pytest.raises(AssertionError):
        check_alone(leaking, documents)


@given(DOCUMENTS)
@settings(deadline=None, max_examples=200)
def test_equal_triples_have_equal_hashes_and_others_have_others(documents: list[list[int]]) -> None:
    long = [document for document in documents if len(document) > 2]
    known: dict[tuple[int, ...], int] = {}
    for document, hashes in zip(long, each(triples(*flat(long)), long), strict=True):
        for at in range(len(document) - 2):
            assert known.setdefault(tuple(document[at : at + 3]), hashes[at]) == hashes[at]
        assert set(hashes[-2:]) == {hashes[0]}
    assert len(set(known.values())) == len(known)


def test_documents_of_one_and_two_tokens_have_one_hash_of_all_that_they_are() -> None:
    documents = [[5], [5, 6], [6, 5], [6], [5, 6, 7], [5, 6], [5]]
    found = each(triples(*flat(documents)), documents)
    assert [len(set(hashes)) for hashes in found] == [1] * len(documents)
    assert found[1] == found[5]
    assert found[0] == found[6]
    assert len({hashes[0] for hashes in found[:5]}) == 5


def signature_of(*documents: Sequence[int]) -> npt.NDArray[np.uint32]:
    ids, lengths = flat(documents)
    return signatures(triples(ids, lengths), lengths)


def jaccard(one: Sequence[int], other: Sequence[int]) -> float:
    """Of the sets of triples, by Python's own sets."""
    first, second = ({tuple(ids[at : at + 3]) for at in range(len(ids) - 2)} for ids in (one, other))
    return len(first & second) / len(first | second)


def changed(document: list[int], share: float, random: np.random.Generator) -> list[int]:
    """With a new word at random places."""
    return [int(random.integers(5000, 60_000)) if random.random() < share else token for token in document]


def errors_in_sigmas(pairs: list[tuple[list[int], list[int]]]) -> npt.NDArray[np.float64]:
    signed = signature_of(*(document for pair in pairs for document in pair))
    found = (signed[0::2] == signed[1::2]).mean(axis=1)
    true = np.array([jaccard(*pair) for pair in pairs])
    return np.abs(found - true) / np.sqrt(np.maximum(true * (1 - true), 1 / SIGNATURE) / SIGNATURE)


def random_pairs(seed: int, *, count: int = 60) -> list[tuple[list[int], list[int]]]:
    random = np.random.default_rng(seed)
    documents = [random.integers(0, 5000, int(random.integers(50, 400))).tolist() for _ in range(count)]
    return [(document, changed(document, share, random)) for document in documents for share in (0.01, 0.05, 0.2)]


def test_signatures_estimate_the_share_of_common_triples_within_four_sigma() -> None:
    pairs = random_pairs(1)
    assert {round(jaccard(*pair), 1) for pair in pairs} >= {0.3, 0.7, 0.8, 0.9}
    assert errors_in_sigmas(pairs).max() < 4


def test_the_estimate_notices_triples_of_other_documents() -> None:
    pairs = random_pairs(1)
    planted = [(one, other[::-1]) for one, other in pairs]
    true = [jaccard(*pair) for pair in pairs]
    signed = signature_of(*(document for pair in planted for document in pair))
    assert np.abs((signed[0::2] == signed[1::2]).mean(axis=1) - true).min() > 4 * 0.5 / np.sqrt(SIGNATURE)


def test_signatures_do_not_depend_on_the_batch_and_equal_documents_have_equal_ones() -> None:
    documents = [one for one, _ in random_pairs(2, count=4)] + [[7], [7, 8], [7]]
    together = signature_of(*documents)
    assert together.shape == (len(documents), SIGNATURE)
    for document, signature in zip(documents, together, strict=True):
        np.testing.assert_array_equal(signature_of(document)[0], signature)
    np.testing.assert_array_equal(together[-1], together[-3])
    assert signature_of().shape == (0, SIGNATURE)


def spans_of(documents: Sequence[Sequence[int]]) -> list[list[int]]:
    """The sampled spans of each document."""
    ids, lengths = flat(documents)
    spans, counts = sampled_spans(ids, triples(ids, lengths), lengths)
    assert counts.sum() == len(spans)
    return [part.tolist() for part in np.split(spans, np.cumsum(counts)[:-1])]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_sampled_spans_depend_on_the_document_alone(sizes: list[int], seed: int) -> None:
    documents = [text_of(np.random.default_rng([seed, number]), size) for number, size in enumerate(sizes)]
    assert spans_of(documents) == [spans_of([document])[0] for document in documents]


def text_of(random: np.random.Generator, tokens: int) -> list[int]:
    return random.integers(0, 60_000, tokens).tolist()


def test_spans_are_sampled_where_the_hash_says_and_none_crosses_the_end_of_a_document() -> None:
    random = np.random.default_rng(3)
    documents = [text_of(random, size) for size in random.integers(0, 300, 200)]
    known: dict[tuple[int, ...], int] = {}
    for document, spans in zip(documents, spans_of(documents), strict=True):
        hashes = triples(*flat([document]))
        places = [at for at in range(len(document) - SPAN + 1) if int(hashes[at]) % 64 == 0]
        assert len(spans) == len(places)
        known |= {tuple(document[at : at + SPAN]): span for at, span in zip(places, spans, strict=True)}
    assert len(known) > 300
    assert len(set(known.values())) == len(known)


def test_one_token_in_64_begins_a_sampled_span() -> None:
    document = text_of(np.random.default_rng(4), 200_000)
    expected = len(document) / 64
    assert abs(len(spans_of([document])[0]) - expected) < 5 * np.sqrt(expected)


def test_the_same_stretch_of_text_has_the_same_spans_in_any_document() -> None:
    random = np.random.default_rng(5)
    common = text_of(random, 3000)
    found = spans_of([text_of(random, 700) + common + text_of(random, 40), common, [*common[:-1], 1]])
    own = set(found[1])
    assert len(own) > 20
    assert own <= set(found[0])
    assert len(own - set(found[2])) <= 2
