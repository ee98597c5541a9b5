"""Which documents are held out: the latest, or those that a hash chooses."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft_dataprep.split import chronological_split, hashed_split, last_split


def split(days: list[int], *, fraction: float) -> list[bool]:
    timestamps = np.datetime64("2008-01-01T00:00:00", "s") + np.array(days, dtype=int) * np.timedelta64(86_400, "s")
    return chronological_split(timestamps, fraction=fraction).tolist()


def test_the_latest_documents_are_held_out_wherever_they_stand() -> None:
    assert split([9, 1, 8, 2, 3, 4, 5, 6, 7, 0], fraction=0.2) == [True, False, True] + [False] * 7


def test_of_equal_times_the_last_in_the_corpus_are_held_out() -> None:
    assert split([1, 1, 1], fraction=0.34) == [False, False, True]
    assert split([1, 2, 1, 2, 2], fraction=0.4) == [False, False, False, True, True]


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0001, 1), (0.25, 1), (0.5, 2), (0.9999, 3)])
def test_each_side_gets_one_document_at_least(fraction: float, held_out: int) -> None:
    assert sum(split([1, 2, 3, 4], fraction=fraction)) == held_out


@pytest.mark.parametrize("days", [[], [1]])
def test_too_few_documents_are_refused(days: list[int]) -> None:
    with pytest.raises(InvalidDataError, match="two documents"):
        split(days, fraction=0.1)
    with pytest.raises(InvalidDataError, match="two documents"):
        hashed_split(np.array(days, dtype=np.uint64), fraction=0.1)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_nothing_that_is_trained_on_is_later_than_what_is_held_out(days: list[int], fraction: float) -> None:
    mask = split(days, fraction=fraction)
    trained = [day for day, later in zip(days, mask, strict=True) if not later]
    held_out = [day for day, later in zip(days, mask, strict=True) if later]
    assert max(trained) <= min(held_out)
    assert abs(len(held_out) - fraction * len(days)) <= 1


def keys(count: int) -> np.ndarray:
    digests = [hashlib.sha256(str(number).encode()).digest()[:8] for number in range(count)]
    return np.frombuffer(b"".join(digests), dtype="<u8")


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_about_the_asked_share_of_hashes_is_held_out(fraction: float) -> None:
    found = float(hashed_split(keys(20_000), fraction=fraction).mean())
    assert abs(found - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / 20_000)


def test_a_document_stays_on_its_side_whatever_comes_or_goes() -> None:
    every = keys(5000)
    sides = hashed_split(every, fraction=0.1)
    np.testing.assert_array_equal(hashed_split(every[:500], fraction=0.1), sides[:500])
    np.testing.assert_array_equal(hashed_split(every[::-7], fraction=0.1), sides[::-7])
    assert (sides <= hashed_split(every, fraction=0.2)).all()


@pytest.mark.parametrize(("fraction", "chosen"), [(1e-9, keys(50)), (1 - 1e-16, keys(50))])
def test_a_side_without_documents_is_refused(fraction: float, chosen: np.ndarray) -> None:
    with pytest.raises(InvalidDataError, match="all 50 documents fall on one side") as caught:
        hashed_split(chosen, fraction=fraction)
    assert caught.value.field == "dataset.validation"
    assert caught.value.reason == "empty_split"


@pytest.mark.parametrize(("count", "fraction", "held_out"), [(29, 0.1, 2), (30, 0.1, 3), (2, 0.99, 1)])
def test_the_last_documents_are_rounded_down(count: int, fraction: float, held_out: int) -> None:
    assert last_split(count, fraction=fraction).tolist() == [False] * (count - held_out) + [True] * held_out


def test_one_document_cannot_be_split_from_its_end() -> None:
    with pytest.raises(InvalidDataError, match="two documents"):
        last_split(1, fraction=0.5)
    with pytest.raises(InvalidDataError, match=r"0\.1 of 9 documents, rounded down, are none") as caught:
        last_split(9, fraction=0.1)
    assert caught.value.field == "dataset.validation.fraction"
