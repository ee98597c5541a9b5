"""The chronological split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft_dataprep.split import chronological_split


def split(days: list[int], *, ids: list[bytes] | None = None, fraction: float) -> list[bool]:
    timestamps = np.datetime64("2008-01-01T00:00:00", "s") + np.array(days) * np.timedelta64(86_400, "s")
    names = np.array(ids if ids is not None else [b"same"] * len(days))
    return chronological_split(timestamps, ids=names, fraction=fraction).tolist()


def test_the_latest_documents_are_held_out_wherever_they_stand() -> None:
    assert split([9, 1, 8, 2, 3, 4, 5, 6, 7, 0], fraction=0.2) == [True, False, True] + [False] * 7


def test_ids_do_not_outweigh_times() -> None:
    assert split([3, 2, 1], ids=[b"a", b"b", b"c"], fraction=0.34) == [True, False, False]


def test_equal_times_are_ordered_by_id_then_by_position() -> None:
    assert split([1, 1, 1], ids=[b"b", b"c", b"a"], fraction=0.34) == [False, True, False]
    assert split([1, 1, 1], fraction=0.34) == [False, False, True]


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0001, 1), (0.25, 1), (0.5, 2), (0.9999, 3)])
def test_each_side_gets_one_document_at_least(fraction: float, held_out: int) -> None:
    assert sum(split([1, 2, 3, 4], fraction=fraction)) == held_out


@pytest.mark.parametrize("days", [[], [1]])
def test_too_few_documents_are_refused(days: list[int]) -> None:
    with pytest.raises(InvalidDataError, match="two documents"):
        split(days, fraction=0.1)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_nothing_that_is_trained_on_is_later_than_what_is_held_out(days: list[int], fraction: float) -> None:
    mask = split(days, fraction=fraction)
    trained = [day for day, later in zip(days, mask, strict=True) if not later]
    held_out = [day for day, later in zip(days, mask, strict=True) if later]
    assert max(trained) <= min(held_out)
    assert abs(len(held_out) - fraction * len(days)) <= 1
