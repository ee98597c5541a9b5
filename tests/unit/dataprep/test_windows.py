"""Windows: every token but a stream's first is a label exactly once, whoever cuts which windows out of what pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piece_making import EOS, Row, stream_of
from regraft.specs.dataset import PackingSpec
from regraft_dataprep.decide import DROPPED, EVAL, TRAIN
from regraft_dataprep.windows import Block, Evenly, Listed, Windows, boundaries, cut, plan_windows

Parts = list[list[Row]]

LENGTHS = st.integers(2, 12)
PACKINGS = st.one_of(
    st.builds(PackingSpec, remainder=st.sampled_from(["pad", "drop"])),
    st.builds(
        PackingSpec,
        remainder=st.sampled_from(["pad", "drop"]),
        short_seq_prob=st.sampled_from([0.1, 0.5, 0.9]),
        seed=st.integers(0, 5),
    ),
    st.just(PackingSpec(pack_sequences=False)),
)


def numbered(parts: Sequence[Sequence[tuple[int, list[int]]]]) -> Parts:
    """Pieces of documents (side, sizes of their rows); no token comes twice, so "once" can be taken at its word."""
    numbers = itertools.count(1)
    pieces: Parts = []
    for documents in parts:
        pieces.append([])
        for side, sizes in documents:
            for at, size in enumerate(sizes, start=1):
                continues = at < len(sizes)
                ids = [*itertools.islice(numbers, size), *([] if continues else [EOS])]
                pieces[-1].append(Row(ids, side, continues))
    return pieces


SIZES = st.integers(0, 9).map(lambda size: [size]) | st.lists(st.integers(0, 9), min_size=2, max_size=3)
CORPORA = st.lists(
    st.lists(st.tuples(st.sampled_from([TRAIN, TRAIN, EVAL, DROPPED]), SIZES), max_size=8), min_size=1, max_size=4
).map(numbered)


def documents_of(pieces: Parts, *, side: int = TRAIN) -> list[list[int]]:
    """The documents of a side, whole, each with its EOS."""
    documents, rest = [], False
    for row in itertools.chain.from_iterable(pieces):
        if row.side == side:
            if rest:
                documents[-1] += row.ids
            else:
                documents.append(list(row.ids))
        rest = row.continues
    return documents


def planned(pieces: Parts, packing: PackingSpec, length: int) -> Evenly | Listed:
    sizes = np.array([len(document) for document in documents_of(pieces)], dtype=np.int64)
    return plan_windows(sizes, packing, max_sequence_length=length, stream=TRAIN)


def cut_out(pieces: Parts, plan: Evenly | Listed, length: int, *, ends: Sequence[int] = ()) -> Block:
    """All windows with their five rows, cut in parts that end at `ends`, each by a process that has read nothing."""
    blocks = [np.empty((0, 5, length), dtype=np.int32)]
    for first, last in itertools.pairwise([0, *sorted(end for end in ends if end < plan.count), plan.count]):
        if first < last:
            windows = plan.part(first, last)
            tokens, starts = stream_of(pieces, side=TRAIN).read(*windows.span)
            block = cut(tokens, windows, max_sequence_length=length, eos_id=EOS)
            blocks.append(np.concatenate([block, boundaries(starts, windows, max_sequence_length=length)], axis=1))
    return np.concatenate(blocks)


def expected_pairs(documents: list[list[int]], packing: PackingSpec) -> tuple[list[int], list[int]]:
    """Inputs and labels, in order, without any window."""
    streams = [list(itertools.chain.from_iterable(documents))] if packing.pack_sequences else documents
    inputs = [token for stream in streams for token in stream[:-1]]
    return inputs, [token for stream in streams for token in stream[1:]]


def expected_lengths(documents: list[list[int]], packing: PackingSpec, length: int) -> list[int]:
    """Pairs of every window, where chance has no part in them."""
    streams = [sum(map(len, documents))] if packing.pack_sequences else [len(document) for document in documents]
    lengths = []
    for tokens in streams:
        pairs = max(tokens - 1, 0)
        rest = [pairs % length] if pairs % length and packing.remainder == "pad" else []
        lengths += [length] * (pairs // length) + rest
    return lengths


def check(block: Block, *, inputs: list[int], labels: list[int], lengths: list[int]) -> None:
    """Every pair once and in order; what is left of a window is EOS under mask 0."""
    ids, mask, targets = block[:, 0], block[:, 1], block[:, 2]
    assert block.dtype == np.int32
    assert mask.tolist() == [[1] * size + [0] * (block.shape[2] - size) for size in lengths]
    assert ids[mask == 1].tolist() == inputs
    assert targets[mask == 1].tolist() == labels
    followed = mask[:, 1:] == 1
    assert (targets[:, :-1][followed] == ids[:, 1:][followed]).all()
    assert (ids[mask == 0] == EOS).all()
    assert (targets[mask == 0] == EOS).all()


def check_boundaries(block: Block, documents: list[list[int]], windows: Windows) -> None:
    """attention_span and position_ids, counted token by token."""
    owners = [number for number, document in enumerate(documents) for _ in document]
    for window, start, size in zip(block, windows.starts, windows.lengths, strict=True):
        own = owners[start : start + size]
        padding = [0] * (block.shape[2] - size)
        assert window[-2].tolist() == [own[at + 1 :].count(owner) for at, owner in enumerate(own)] + padding
        assert window[-1].tolist() == [own[:at].count(owner) for at, owner in enumerate(own)] + padding


@given(CORPORA, PACKINGS, LENGTHS)
@settings(deadline=None, max_examples=300)
def test_every_pair_is_in_one_window_and_padding_is_the_end_token_under_mask_zero(
    pieces: Parts, packing: PackingSpec, length: int
) -> None:
    documents = documents_of(pieces)
    plan = planned(pieces, packing, length)
    block = cut_out(pieces, plan, length)
    inputs, labels = expected_pairs(documents, packing)
    lengths = plan.part(0, plan.count).lengths.tolist()
    if not packing.short_seq_prob:
        assert lengths == expected_lengths(documents, packing, length)
    assert len(block) == plan.count
    assert plan.pairs == sum(lengths)
    lost = len(labels) - plan.pairs
    assert 0 <= lost < length if packing.remainder == "drop" else lost == 0
    check(block, inputs=inputs[: plan.pairs], labels=labels[: plan.pairs], lengths=lengths)
    if not lost:
        ends = np.count_nonzero(block[:, 2][block[:, 1] == 1] == EOS)
        nothing_before = packing.pack_sequences and documents[:1] == [[EOS]]
        empty = 0 if packing.pack_sequences else documents.count([EOS])
        assert ends == len(documents) - nothing_before - empty
    check_boundaries(block, documents, plan.part(0, plan.count))


@given(CORPORA, PACKINGS, LENGTHS, st.lists(st.integers(0, 40), max_size=5))
@settings(deadline=None, max_examples=200)
def test_windows_are_the_same_in_whatever_parts_they_are_cut(
    pieces: Parts, packing: PackingSpec, length: int, ends: list[int]
) -> None:
    plan = planned(pieces, packing, length)
    np.testing.assert_array_equal(cut_out(pieces, plan, length, ends=ends), cut_out(pieces, plan, length))


@given(CORPORA, PACKINGS, LENGTHS, st.lists(st.integers(0, 60), max_size=6))
@settings(deadline=None, max_examples=200)
def test_windows_do_not_depend_on_how_the_corpus_is_cut_into_pieces(
    pieces: Parts, packing: PackingSpec, length: int, cuts: list[int]
) -> None:
    rows = list(itertools.chain.from_iterable(pieces))
    whole = [at for at, row in enumerate(rows[:-1], start=1) if not row.continues]  # a document is in one piece
    bounds = [0, *sorted(at for at in cuts if at in whole), len(rows)]
    others = [rows[first:last] for first, last in itertools.pairwise(bounds)]
    plan = planned(pieces, packing, length)
    np.testing.assert_array_equal(cut_out(others, plan, length), cut_out(pieces, plan, length))


PLANTED_IN = numbered([[(TRAIN, [20]), (EVAL, [9]), (TRAIN, [3])], [(TRAIN, [0]), (TRAIN, [4, 6]), (TRAIN, [17])]])


def strides(off: int) -> Callable[[Block], Block]:
    """The stride is off by one, as when neighbours share no token, or two."""

    def planted(block: Block) -> Block:
        stream = np.array(list(itertools.chain(*documents_of(PLANTED_IN), [EOS] * 9)), dtype=np.int32)
        starts = np.arange(len(block)) * (8 + off)
        return cut(
            stream[: starts[-1] + 9],
            Windows(starts, block[:, 1].sum(axis=1).astype(np.int64)),
            max_sequence_length=8,
            eos_id=EOS,
        )

    return planted


def without_an_end(block: Block) -> Block:
    spoilt = [[row._replace(ids=[*row.ids[:-1], 999]) if row.ids[-1:] == [EOS] else row for row in PLANTED_IN[0]]]
    pieces = [*spoilt, *PLANTED_IN[1:]]
    return cut_out(pieces, planned(pieces, PackingSpec(), 8), 8)


def labels_shifted_twice(block: Block) -> Block:
    block[:, 2] = np.roll(block[:, 2], -1)
    return block


def labels_not_shifted(block: Block) -> Block:
    block[:, 2] = block[:, 0]
    return block


def padding_that_counts(block: Block) -> Block:
    block[:, 1] = 1
    return block


def padding_of_zero_instead(block: Block) -> Block:
    block[:, 0][block[:, 1] == 0] = 7
    return block


def swapped(block: Block) -> Block:
    return block[[1, 0, *range(2, len(block))]]


PLANTED = [
    strides(-1),
    strides(1),
    without_an_end,
    labels_shifted_twice,
    labels_not_shifted,
    padding_that_counts,
    padding_of_zero_instead,
    swapped,
]


@pytest.mark.parametrize("plant", PLANTED)
def test_the_check_notices_what_is_planted(plant: Callable[[Block], Block]) -> None:
    documents, packing = documents_of(PLANTED_IN), PackingSpec()
    block = cut_out(PLANTED_IN, planned(PLANTED_IN, packing, 8), 8)
    inputs, labels = expected_pairs(documents, packing)
    wanted = {"inputs": inputs, "labels": labels, "lengths": expected_lengths(documents, packing, 8)}
    check(block, **wanted)
    with pytest.raises(AssertionError):
        check(plant(block.copy())[:, :3], **wanted)


@pytest.mark.parametrize(("row", "change"), [(3, 1), (3, -1), (4, 1), (4, -1)])
def test_the_check_of_boundaries_notices_one_wrong_number(row: int, change: int) -> None:
    plan = planned(PLANTED_IN, PackingSpec(), 8)
    block = cut_out(PLANTED_IN, plan, 8)
    check_boundaries(block, documents_of(PLANTED_IN), plan.part(0, plan.count))
    block[2, row, 4] += change
    with pytest.raises(AssertionError):
        check_boundaries(block, documents_of(PLANTED_IN), plan.part(0, plan.count))


def test_boundaries_in_numbers() -> None:
    windows = Windows(np.array([4, 8]), np.array([4, 2]))  # documents begin at 6 and at 9
    found = boundaries(np.array([2, 5]), windows, max_sequence_length=4)
    assert found.tolist() == [[[1, 0, 1, 0], [0, 1, 0, 1]], [[0, 0, 0, 0], [0, 0, 0, 0]]]


def packed(*documents: list[int], length: int, **options: Any) -> list[list[list[int]]]:
    pieces = [[Row([*document, EOS], TRAIN) for document in documents]]
    return cut_out(pieces, planned(pieces, PackingSpec(**options), length), length)[:, :3].tolist()


def test_windows_cross_documents_and_the_rest_is_padded_under_mask_zero() -> None:
    full, rest = packed([1, 2, 3], [4, 5], length=4)
    assert full == [[1, 2, 3, EOS], [1, 1, 1, 1], [2, 3, EOS, 4]]
    assert rest == [[4, 5, EOS, EOS], [1, 1, 0, 0], [5, EOS, EOS, EOS]]
    assert packed([1, 2, 3], [4, 5], length=4, remainder="drop") == [full]


def test_a_window_that_ends_exactly_leaves_nothing_over() -> None:
    assert len(packed([1, 2, 3, 4], length=4)) == 1


def test_documents_apart_have_windows_of_their_own() -> None:
    # The tokens between the first and the last one of these windows are as many as if all of them were full.
    assert packed([1], [3, 4], length=2, pack_sequences=False) == [
        [[1, EOS], [1, 0], [EOS, EOS]],
        [[3, 4], [1, 1], [4, EOS]],
    ]


@pytest.mark.parametrize("options", [{}, {"pack_sequences": False}, {"short_seq_prob": 0.5}, {"remainder": "drop"}])
@pytest.mark.parametrize("documents", [(), ([],)])
def test_one_token_or_none_is_no_window(documents: tuple[list[int], ...], options: dict[str, Any]) -> None:
    assert packed(*documents, length=4, **options) == []


def drawn(**options: Any) -> Listed:
    plan = plan_windows(
        np.array([2_000_000]), PackingSpec(**options), max_sequence_length=64, stream=options.pop("stream", 0)
    )
    assert isinstance(plan, Listed)
    return plan


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_about_the_asked_share_of_windows_is_short_and_any_length_comes(share: float) -> None:
    lengths = drawn(short_seq_prob=share).windows.lengths[:-1]
    found = float(np.mean(lengths < 64))
    assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / len(lengths))
    assert np.unique(lengths).tolist() == list(range(2, 65))


def test_random_lengths_follow_from_the_seed_and_differ_between_the_splits() -> None:
    sizes, packing = np.array([100_000]), PackingSpec(short_seq_prob=0.3, seed=3)
    plans = [
        plan_windows(sizes, chosen, max_sequence_length=64, stream=stream).part(0, 1000).lengths.tolist()
        for chosen, stream in [(packing, 0), (packing, 0), (packing, 1), (PackingSpec(short_seq_prob=0.3, seed=4), 0)]
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0] != plans[3]
