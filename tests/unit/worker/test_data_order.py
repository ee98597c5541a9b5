"""Which windows a step reads."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regraft_worker.trainer.data import SampleOrder, samples_of

SIZES = {"n": st.integers(1, 40), "batch_size": st.integers(1, 50), "seed": st.integers(0, 2**63 - 1)}


def _stream(n: int, *, seed: int, batch_size: int, shuffle: bool, windows: int) -> list[int]:
    order = SampleOrder(n, seed=seed, shuffle=shuffle)
    steps = -(-windows // batch_size)
    batches = (order.at(samples_of(step, batch_size=batch_size)) for step in range(1, steps + 1))
    return [int(i) for batch in batches for i in batch][:windows]


@given(**SIZES)
def test_each_epoch_visits_every_window_once(n: int, batch_size: int, seed: int) -> None:
    stream = _stream(n, seed=seed, batch_size=batch_size, shuffle=True, windows=3 * n)

    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(**SIZES, step=st.integers(1, 200))
def test_a_batch_depends_on_its_step_and_not_on_those_before(n: int, batch_size: int, seed: int, step: int) -> None:
    walked = SampleOrder(n, seed=seed, shuffle=True)
    for earlier in range(1, step, 7):
        walked.at(samples_of(earlier, batch_size=batch_size))
    samples = samples_of(step, batch_size=batch_size)

    fresh = SampleOrder(n, seed=seed, shuffle=True)

    assert np.array_equal(walked.at(samples), fresh.at(samples))
    assert len(samples) == batch_size


@given(n=SIZES["n"], seed=SIZES["seed"], sizes=st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_the_order_does_not_depend_on_the_batch_size(n: int, seed: int, sizes: tuple[int, int]) -> None:
    one, other = (_stream(n, seed=seed, batch_size=size, shuffle=True, windows=100) for size in sizes)

    assert one == other


def test_an_epoch_is_drawn_with_the_seed_plus_its_number() -> None:
    stream = _stream(10, seed=5, batch_size=4, shuffle=True, windows=20)

    expected = [torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (5, 6)]
    assert stream == [*expected[0], *expected[1]]
    assert expected[0] != expected[1]


def test_unshuffled_is_the_order_on_disk_again_and_again() -> None:
    assert _stream(5, seed=9, batch_size=3, shuffle=False, windows=12) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_a_batch_larger_than_the_dataset_repeats_it() -> None:
    batch = SampleOrder(3, seed=1, shuffle=True).at(samples_of(1, batch_size=7))

    assert sorted(Counter(batch.tolist()).values()) == [2, 2, 3]


@pytest.mark.parametrize("seed", [1, 2])
def test_seeds_give_different_orders(seed: int) -> None:
    order, other = (SampleOrder(50, seed=s, shuffle=True).at(np.arange(50)) for s in (seed, seed + 10))

    assert not np.array_equal(order, other)
