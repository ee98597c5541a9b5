"""Packing: the numbers of one worked example; the rules in general are in tests/parity."""

from __future__ import annotations

import numpy as np

from regraft_dataprep.pack import Packer

EOS = 9


def test_windows_cross_documents_and_the_rest_is_padded_under_mask_zero() -> None:
    packer = Packer(4, EOS)
    full = packer.add([[1, 2, 3], [4, 5]])  # the stream: 1 2 3 9 4 5 9
    rest = packer.finish()
    np.testing.assert_array_equal(full, [[[1, 2, 3, 9], [1, 1, 1, 1], [2, 3, 9, 4]]])
    np.testing.assert_array_equal(rest, [[[4, 5, 9, 9], [1, 1, 0, 0], [5, 9, 9, 9]]])
    assert (full.dtype, rest.dtype, packer.tokens) == (np.int32, np.int32, 7)


def test_a_window_that_ends_exactly_leaves_nothing_over() -> None:
    packer = Packer(4, EOS)
    assert len(packer.add([[1, 2, 3, 4]])) == 1  # the stream: 1 2 3 4 9
    assert packer.finish().shape == (0, 3, 4)


def test_the_token_that_two_windows_share_is_not_lost_between_calls() -> None:
    packer = Packer(2, EOS)
    blocks = [packer.add([[1]]), packer.add([[2]]), packer.add([]), packer.add([[]]), packer.finish()]
    np.testing.assert_array_equal(np.concatenate(blocks)[:, 0], [[1, EOS], [2, EOS]])
    np.testing.assert_array_equal(np.concatenate(blocks)[:, 2], [[EOS, 2], [EOS, EOS]])


def test_no_documents_give_no_windows() -> None:
    packer = Packer(4, EOS)
    assert packer.add([]).shape == packer.finish().shape == (0, 3, 4)
    assert packer.tokens == 0


def test_a_single_token_is_no_example() -> None:
    packer = Packer(4, EOS)
    packer.add([[]])
    assert packer.finish().shape == (0, 3, 4)
