"""The token stream of a split: any stretch of it, from whatever pieces it lies in."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from piece_making import EOS, Row, in_memory, stream_of
from regraft_dataprep.decide import DROPPED, EVAL, TRAIN, Sides
from regraft_dataprep.pieces import Piece
from regraft_dataprep.stream import SplitStream

SIDES = (TRAIN, EVAL, DROPPED)
DOCUMENTS = st.tuples(st.sampled_from(SIDES), st.lists(st.integers(0, 4), min_size=1, max_size=3))
CORPORA = st.lists(st.lists(DOCUMENTS, max_size=6), min_size=1, max_size=4)

Drawn = list[list[tuple[int, list[int]]]]


def rows_of(drawn: Drawn) -> list[list[Row]]:
    numbers = itertools.count(1)
    pieces: list[list[Row]] = []
    for documents in drawn:
        rows = []
        for side, sizes in documents:
            parts = [[*itertools.islice(numbers, size)] for size in sizes]
            parts[-1].append(EOS)
            rows += [Row(ids, side, at < len(parts)) for at, ids in enumerate(parts, start=1)]
        pieces.append(rows)
    return pieces


def by_lists(pieces: list[list[Row]], side: int) -> tuple[list[int], list[int]]:
    """All tokens of a side, and where its documents begin."""
    tokens: list[int] = []
    begins, rest = [], False
    for row in itertools.chain.from_iterable(pieces):
        if row.side == side:
            begins += [] if rest else [len(tokens)]
            tokens += row.ids
        rest = row.continues
    return tokens, begins


@given(CORPORA, st.sampled_from([TRAIN, EVAL]), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=8))
@settings(deadline=None, max_examples=300)
def test_any_stretch_is_what_a_list_gives(drawn: Drawn, side: int, asked: list[tuple[int, int]]) -> None:
    pieces = rows_of(drawn)
    tokens, begins = by_lists(pieces, side)
    stream = stream_of(pieces, side=side)  # one for all stretches, in any order: it keeps the piece it read last
    for one, other in [(0, len(tokens)), *asked]:
        first, last = sorted((min(one, len(tokens)), min(other, len(tokens))))
        found, starts = stream.read(first, last)
        assert found.dtype == np.int32
        assert found.tolist() == tokens[first:last]
        # Where the stretch itself begins needs no saying: whoever reads it begins there anyhow.
        assert [at for at in starts.tolist() if at] == [at - first for at in begins if first < at < last]


def test_a_document_that_begins_with_the_stretch_is_named() -> None:
    stream = stream_of([[Row([1, 2, EOS], TRAIN), Row([3, EOS], TRAIN)]], side=TRAIN)
    assert stream.read(3, 5)[1].tolist() == [0]
    assert stream.read(4, 5)[1].tolist() == []


def test_the_rest_of_a_long_document_begins_nothing() -> None:
    pieces = [[Row([1], TRAIN, continues=True), Row([2, EOS], TRAIN), Row([3, EOS], EVAL), Row([4, EOS], TRAIN)]]
    assert stream_of(pieces, side=TRAIN).read(0, 5)[1].tolist() == [0, 3]
    assert stream_of(pieces, side=TRAIN).read(1, 5)[1].tolist() == [2]


def test_only_the_pieces_that_a_stretch_lies_in_are_opened() -> None:
    pieces = [in_memory([Row([number, EOS], side)]) for number, side in enumerate([TRAIN, EVAL, TRAIN, TRAIN, TRAIN])]
    opened: list[int] = []

    def open_piece(number: int) -> tuple[Piece, Sides]:
        opened.append(number)
        return pieces[number]

    stream = SplitStream(open_piece, side=TRAIN, tokens=[2, 0, 2, 2, 2])
    assert stream.read(1, 5)[0].tolist() == [EOS, 2, EOS, 3]
    assert stream.read(5, 6)[0].tolist() == [EOS]
    assert opened == [0, 2, 3]
