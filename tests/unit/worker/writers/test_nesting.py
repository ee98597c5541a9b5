"""Dotted names and the trees they stand for."""

from __future__ import annotations

import pytest

from regraft_worker.conversion.writers.nesting import build, flat, in_order, trained, trained_kind


def test_numbers_from_zero_are_a_list_elsewhere_keys() -> None:
    assert build({"a.0.x": 1, "a.1.x": 2, "b.1": 3}, trained) == {"a": [{"x": 1}, {"x": 2}], "b": {1: 3}}
    assert build({"optimizer.state.0.step": 1}, trained, trained_kind) == {"optimizer": {"state": {0: {"step": 1}}}}


def test_flat_names_stay_as_they_are() -> None:
    assert build({"a.b": 1, "c": 2}, flat) == {"a.b": 1, "c": 2}


def test_a_leaf_that_is_a_dict_is_a_leaf() -> None:
    assert build({"a": {}, "b.c": []}) == {"a": {}, "b": {"c": []}}
    with pytest.raises(AssertionError, match="below another leaf"):
        build({"a": {}, "a.b": 1})


def test_names_that_are_ordered_come_first() -> None:
    assert list(in_order({"a": 1, "b": 2, "c": 3}, ["c", "x", "b"])) == ["c", "b", "a"]
