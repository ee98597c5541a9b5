"""Windows from several datasets: their order, compared with a generator that knows no shortcut, and subsets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_runs import VOCAB, windows, write_split

from regraft.errors import InvalidDataError
from regraft.hdf5 import Dataset
from regraft.specs import TrainingSpec
from regraft_worker.trainer.data import samples_of
from regraft_worker.trainer.mixture import Mixture, Part, RowRanges, Shares

SIZES = (21, 5, 40)
WEIGHTS = st.lists(st.sampled_from([0.1, 0.25, 1.0, 3.0, 1 / 3, 0.1234567, 1e-3, 1e6]), min_size=1, max_size=3)
SUBSETS = [None, "0.0-0.5", "0.1-0.3,0.7-1.0"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Dataset]]:
    folder = tmp_path_factory.mktemp("datasets")
    for size in SIZES:
        write_split(folder / str(size), windows(size, seed=size))
    opened = [Dataset(folder / str(size)) for size in SIZES]
    yield opened
    for dataset in opened:
        dataset.close()


def mixture(
    datasets: list[Dataset],
    weights: list[float],
    *,
    subsets: list[str | None] | None = None,
    seed: int = 1,
    shuffle: bool = True,
) -> Mixture:
    parts = [
        Part(field=f"part {number}", dataset=dataset, ranges=RowRanges(len(dataset), subset), weight=weight)
        for number, (dataset, weight, subset) in enumerate(
            zip(datasets, weights, subsets or [None] * len(weights), strict=False)
        )
    ]
    return Mixture(parts, seed=seed, shuffle=shuffle)


def one_by_one(rows: list[list[int]], weights: list[float], *, seed: int, seed_step: int = 1) -> Iterator[list[int]]:
    """[part, row] of each sample in turn: the documented order, told as a story.

    Each part in turn is offered the sample, and saves up its share of what it is offered; it takes the sample as soon
    as it has saved half of one, and then owes it. The last part takes what no other wants.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    saved = [Fraction(0) for _ in rows]
    streams = [epochs(own, seed=seed, seed_step=seed_step) for own in rows]
    while True:
        for part, weight in enumerate(exact):
            saved[part] += weight / sum(exact[part:])
            if saved[part] >= Fraction(1, 2):
                saved[part] -= 1
                yield [part, next(streams[part])]
                break


def epochs(rows: list[int], *, seed: int, seed_step: int) -> Iterator[int]:
    while True:
        for place in torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist():
            yield rows[place]
        seed += seed_step


def rows_of(size: int, subset: str | None) -> list[int]:
    bounds = {None: [(0.0, 1.0)], "0.0-0.5": [(0.0, 0.5)], "0.1-0.3,0.7-1.0": [(0.1, 0.3), (0.7, 1.0)]}[subset]
    return [row for row in range(size) if any(int(a * size) <= row < int(b * size) for a, b in bounds)]


@given(weights=WEIGHTS, subset=st.sampled_from(SUBSETS), seed=st.integers(0, 2**62), batch_size=st.integers(1, 30))
def test_the_order_is_that_of_a_generator_that_streams_one_sample_after_the_other(
    datasets: list[Dataset], weights: list[float], subset: str | None, seed: int, batch_size: int
) -> None:
    subsets = [subset] * len(weights)
    rows = [rows_of(size, subset) for size in SIZES[: len(weights)]]
    story = one_by_one(rows, weights, seed=seed)
    mixed = mixture(datasets, weights, subsets=subsets, seed=seed)

    for step in range(1, 200 // batch_size + 1):
        found = np.stack(mixed.locate(samples_of(step, batch_size=batch_size)), axis=1)
        assert found.tolist() == [next(story) for _ in range(batch_size)], step


def test_the_comparison_notices_an_order_that_is_never_drawn_anew_and_another_share(datasets: list[Dataset]) -> None:
    rows, weights = [list(range(size)) for size in SIZES], [3.0, 1.0, 2.0]
    parts, places = mixture(datasets, weights).locate(np.arange(200))
    found = np.stack([parts, places], axis=1).tolist()

    def told(**changed: Any) -> list[list[int]]:
        story = one_by_one(rows, **{"weights": weights, "seed": 1, **changed})
        return [next(story) for _ in range(200)]

    assert found == told()
    assert found != told(seed_step=0)
    assert found != told(weights=[3.0, 1.0, 2.01])


@given(weights=WEIGHTS, number=st.integers(0, 10**9))
def test_shares_are_exact_and_never_far_off(weights: list[float], number: int) -> None:
    shares = Shares(weights)
    counts = shares.counts(np.array([number]))[:, 0]

    assert counts.sum() == number
    assert sum(shares.shares) == 1
    for count, share in zip(counts, shares.shares, strict=True):
        assert abs(int(count) - share * number) <= Fraction(len(weights), 2)


def test_a_weight_is_what_it_reads_as() -> None:
    shares = Shares([0.7, 0.2, 0.1])

    assert shares.shares == (Fraction(7, 10), Fraction(2, 10), Fraction(1, 10))
    assert np.bincount(shares.place(np.arange(10))[0]).tolist() == [7, 2, 1]
    assert shares.counts(np.array([10**15]))[:, 0].tolist() == [7 * 10**14, 2 * 10**14, 10**14]


@given(weights=WEIGHTS, cuts=st.sets(st.integers(1, 299), max_size=6), data=st.data())
def test_any_division_of_the_samples_reads_the_same_windows(
    datasets: list[Dataset], weights: list[float], cuts: set[int], data: st.DataObject
) -> None:
    whole = np.stack(mixture(datasets, weights).locate(np.arange(300)))
    workers = np.split(np.array(data.draw(st.permutations(range(300)))), sorted(cuts))

    found = np.empty_like(whole)
    for samples in workers:  # each has opened its own
        found[:, samples] = np.stack(mixture(datasets, weights).locate(samples))

    assert np.array_equal(found, whole)


@pytest.mark.parametrize("shuffle", [True, False])
def test_alone_it_is_the_dataset_epoch_after_epoch(datasets: list[Dataset], shuffle: bool) -> None:
    alone = mixture(datasets, [0.3], shuffle=shuffle, seed=7)

    found = alone.read(np.arange(63), vocab_size=VOCAB)

    orders = [torch.randperm(21, generator=torch.Generator().manual_seed(7 + epoch)) for epoch in range(3)]
    expected = torch.cat(orders).numpy() if shuffle else np.tile(np.arange(21), 3)
    np.testing.assert_array_equal(found, windows(21, seed=21)[expected])


def test_windows_come_from_the_dataset_that_is_their_turn(datasets: list[Dataset]) -> None:
    mixed = mixture(datasets, [3.0, 1.0, 2.0], subsets=["0.5-1.0", None, "0.1-0.3,0.7-1.0"])
    parts, rows = mixed.locate(np.arange(100))

    found = mixed.read(np.arange(100), vocab_size=VOCAB)

    assert np.bincount(parts).tolist() == [50, 17, 33]
    for number, size in enumerate(SIZES):
        np.testing.assert_array_equal(found[parts == number], windows(size, seed=size)[rows[parts == number]])
    assert mixed.epochs(100) == [50 / 11, 17 / 5, 33 / 20]


def test_a_token_beyond_the_vocabulary_names_its_dataset(datasets: list[Dataset], tmp_path: Path) -> None:
    block = windows(4)
    block[2, 0, 3] = VOCAB
    write_split(tmp_path / "bad", block)
    with Dataset(tmp_path / "bad") as bad:
        mixed = mixture([datasets[0], bad], [1.0, 1.0])

        with pytest.raises(InvalidDataError, match=f"vocabulary of {VOCAB}") as caught:
            mixed.read(np.arange(8), vocab_size=VOCAB)

    assert caught.value.field == "part 1"


def test_any_step_is_as_cheap_as_the_first(datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    randperm = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **options: (drawn.append(n), randperm(n, **options))[1])
    work = {}
    for step in (1, 10**6):
        mixed = mixture(datasets, [3.0, 1.0, 2.0])
        drawn.clear()
        mixed.locate(samples_of(step, batch_size=6))
        mixed.locate(samples_of(step, batch_size=6))
        work[step] = sorted(drawn)
        # All that is kept, whatever the step, is the order of one epoch for each dataset.
        assert [len(order._order) for order in mixed._order._orders] == list(SIZES)

    assert work[1] == work[10**6] == sorted(SIZES)


def test_one_pass_ends_when_the_own_dataset_was_read(datasets: list[Dataset]) -> None:
    mixed = mixture(datasets, [0.7, 0.2, 0.1], subsets=["0.0-0.5", None, None])
    steps = mixed.steps_of_one_pass(4)
    assert steps == math.ceil(10 / 0.7 / 4) == 4

    read = [mixed.locate(samples_of(step, batch_size=4)) for step in range(1, steps + 1)]
    own = [int(row) for parts, rows in read for part, row in zip(parts, rows, strict=True) if part == 0]

    assert set(own) == set(range(10))
    assert len(own) - 10 < 4


CUTS = st.lists(st.integers(1, 999), min_size=1, max_size=6, unique=True).map(sorted)


@given(n=st.integers(1, 5000), cuts=CUTS)
def test_subsets_that_complement_one_another_part_the_windows(n: int, cuts: list[int]) -> None:
    bounds = ["0", *(f"0.{cut:03}" for cut in cuts), "1.0"]
    ranges = [f"{start}-{end}" for start, end in pairwise(bounds)]

    subsets = [RowRanges(n, ",".join(ranges[part::2])) for part in (0, 1)]
    rows = [subset.rows(np.arange(len(subset))) for subset in subsets]

    assert sorted(np.concatenate(rows).tolist()) == list(range(n))
    assert all(np.all(np.diff(own) > 0) for own in rows)


@pytest.mark.parametrize(
    ("subset", "rows"),
    [
        ("0.0-0.5", range(50)),
        ("0.1-0.3,0.7-1.0", [*range(10, 30), *range(70, 100)]),
        ("0.28-0.29 , 0.29-0.3", [28, 29]),
    ],
)
def test_fractions_are_those_that_are_written(subset: str, rows: Any) -> None:
    assert int(0.29 * 100) == 28  # what binary fractions would make of it
    found = RowRanges(100, TrainingSpec(data_subset=subset).data_subset)
    assert found.rows(np.arange(len(found))).tolist() == list(rows)


@pytest.mark.parametrize(
    ("subset", "said"),
    [
        ("", "write ranges"),
        ("0.5", "write ranges"),
        ("-0.1-0.5", "write ranges"),
        ("0.0-0.5,", "write ranges"),
        ("0.0-1.1", "at the latest"),
        ("0.5-0.5", "after its start"),
        ("0.7-0.5", "after its start"),
        ("0.5-0.7,0.0-0.2", "in order"),
        ("0.0-0.5,0.4-0.7", "do not overlap"),
    ],
)
def test_subsets_that_make_no_sense_are_refused(subset: str, said: str) -> None:
    for options in ({"data_subset": subset}, {"mixture": [{"uri": "/x", "weight": 1, "data_subset": subset}]}):
        with pytest.raises(ValidationError, match=said):
            TrainingSpec.model_validate(options)


@pytest.mark.parametrize("part", [{"weight": 1}, {"uri": "", "weight": 1}, {"uri": "/x"}, {"uri": "/x", "weight": 0}])
def test_a_part_has_a_place_and_a_weight(part: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="mixture"):
        TrainingSpec.model_validate({"mixture": [part]})
