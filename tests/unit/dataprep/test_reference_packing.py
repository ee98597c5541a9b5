"""Both generations' windows equal those of a packer on plain lists that shares no code with them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft_dataprep.reference.packing import ReferencePacker, Rules

PAD = 99
DOCUMENTS = st.lists(st.lists(st.integers(1, 50), max_size=40).map(lambda ids: [*ids, 0]), max_size=12)
LENGTH = st.integers(3, 17)


def one(window: Sequence[int], length: int) -> list[list[int]]:
    missing = length + 1 - len(window)
    filler = [PAD] * missing
    return [[*window[:-1], *filler], [1] * (len(window) - 1) + [0] * missing, [*window[1:], *filler]]


def by_lists(
    documents: Sequence[Sequence[int]], length: int, *, least: int, pack: bool = True, stride: int | None = None
) -> tuple[list[list[list[int]]], list[int]]:
    """Windows, and what is left; a piece of fewer than `least` tokens is no window."""
    windows, carry = [], list[int]()
    for document in documents:
        rest = carry + list(document) if pack else list(document)
        while len(rest) >= least:
            windows.append(one(rest[: length + 1], length))
            rest = rest[stride or length :] if len(rest) > length else []
        carry = rest
    return windows, carry if pack else []


def packed(
    documents: Sequence[Sequence[int]], rules: Rules, *, seed: int = 0
) -> tuple[list[list[list[int]]], list[int]]:
    packer = ReferencePacker(rules, seed=seed)
    blocks = [packer.add(document) for document in documents]
    return [window for block in blocks for window in block.tolist()], packer.carry.tolist()


def gen_a(length: int) -> Rules:
    return Rules(max_seq_length=length, pad_id=PAD, keep_m_tokens=True)


def gen_b(length: int, *, pack: bool = True, least: int = 0, p: float = 0.0, inverted: bool = False) -> Rules:
    return Rules(
        max_seq_length=length,
        pad_id=PAD,
        keep_m_tokens=False,
        pack=pack,
        min_sequence_len=least,
        short_seq_prob=p,
        inverted_mask=inverted,
    )


@given(DOCUMENTS, LENGTH)
@settings(deadline=None)
def test_generation_a(documents: list[list[int]], length: int) -> None:
    assert packed(documents, gen_a(length)) == by_lists(documents, length, least=length)


@given(DOCUMENTS, LENGTH)
@settings(deadline=None)
def test_generation_b(documents: list[list[int]], length: int) -> None:
    assert packed(documents, gen_b(length)) == by_lists(documents, length, least=length + 1)


@given(DOCUMENTS, LENGTH, st.integers(0, 8))
@settings(deadline=None)
def test_documents_apart(documents: list[list[int]], length: int, least: int) -> None:
    # A rest of one token is the last label of the window before, so 2 is the least.
    expected, _ = by_lists(documents, length, least=max(2, min(least, length + 1)), pack=False)
    assert packed(documents, gen_b(length, pack=False, least=least))[0] == expected or least > length + 1


@pytest.mark.parametrize("off", [-1, 1])
def test_the_comparison_notices_an_off_by_one(off: int) -> None:
    documents = [[*range(1, 20), 0], [*range(20, 37), 0]]
    for rules, least in ((gen_a(8), 8), (gen_b(8), 9)):
        assert packed(documents, rules) == by_lists(documents, 8, least=least)
        assert packed(documents, rules) != by_lists(documents, 8, least=least, stride=8 + off)


def test_the_generations_differ_where_a_document_leaves_exactly_m_tokens() -> None:
    documents = [[1, 2, 3, 0], [4, 5, 6, 7, 0]]
    first, carry = packed(documents, gen_a(4))
    assert first == [
        [[1, 2, 3, PAD], [1, 1, 1, 0], [2, 3, 0, PAD]],
        [[4, 5, 6, 7], [1, 1, 1, 1], [5, 6, 7, 0]],
    ]
    assert carry == [0]
    assert packed(documents, gen_b(4))[0][0] == [[1, 2, 3, 0], [1, 1, 1, 1], [2, 3, 0, 4]]


def test_short_sequences_are_cut_by_the_process_s_random_numbers() -> None:
    documents = [[*range(1, 200), 0]]
    whole, _ = packed(documents, gen_b(8))
    numbers, expected = random.Random(7), []
    for ids, _, labels in whole:
        keep = numbers.randint(2, 7) if numbers.random() < 0.5 else 9
        expected.append(one([ids[0], *labels][:keep], 8))
    assert packed(documents, gen_b(8, p=0.5), seed=7)[0] == expected
    assert packed(documents, gen_b(8, p=0.5), seed=8)[0] != expected
    assert expected != whole


def test_every_token_is_a_label_or_counted_as_dropped() -> None:
    documents = [[*range(1, size), 0] for size in (2, 5, 9, 10, 17, 18, 30)]
    packer = ReferencePacker(gen_b(8, pack=False, least=6, p=0.3), seed=1)
    rows = np.concatenate([packer.add(document) for document in documents])
    firsts = sum(len(document) >= 6 for document in documents)  # a kept document's first token is no label
    assert int(rows[:, 1].sum()) + packer.dropped + firsts == sum(map(len, documents))


def test_an_inverted_mask_is_one_where_nothing_counts() -> None:
    assert packed([[1, 2, 0]], gen_b(4, pack=False, inverted=True))[0][0][1] == [0, 0, 1, 1]


def test_a_packer_goes_on_from_its_saved_state() -> None:
    documents = [[*range(1, size), 0] for size in range(3, 40)]
    whole, first = (ReferencePacker(gen_b(8, p=0.5), seed=3) for _ in range(2))
    expected = [whole.add(document).tolist() for document in documents]
    found = [first.add(document).tolist() for document in documents[:20]]
    second = ReferencePacker(gen_b(8, p=0.5), seed=999)
    second.restore(json.loads(json.dumps(first.state())))
    assert found + [second.add(document).tolist() for document in documents[20:]] == expected
    assert second.dropped == whole.dropped
