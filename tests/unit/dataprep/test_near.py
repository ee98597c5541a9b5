"""Near duplicates: what banding finds is what comparing all with all finds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from regraft.errors import InvalidDataError
from regraft_dataprep import near
from regraft_dataprep.near import Leaders, Signatures, find_leaders
from regraft_dataprep.pieces import SIGNATURE
from regraft_dataprep.sketches import signatures, triples

Matrix = npt.NDArray[np.uint32]


def stored(folder: Path, matrix: Matrix, *, pieces: int = 1) -> Signatures:
    """In as many files, the first of them empty."""
    bounds = [0, *np.linspace(0, len(matrix), pieces + 1, dtype=int).tolist()]
    paths = [folder / f"{number}.bin" for number in range(pieces + 1)]
    for path, (first, last) in zip(paths, pairwise(bounds), strict=True):
        matrix[first:last].tofile(path)
    return Signatures(paths, np.diff(bounds).tolist())


def families(seed: int, *, count: int = 60) -> Matrix:
    """Signatures of documents of which each has four more or less changed copies, in random order."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        original = random.integers(0, 5000, 200)
        for share in (0.0, 0.003, 0.01, 0.03, 0.08):
            documents.append(np.where(random.random(200) < share, random.integers(5000, 60_000, 200), original))
    ids = np.concatenate([documents[number] for number in random.permutation(len(documents))])
    lengths = np.full(len(documents), 200)
    return signatures(triples(ids, lengths), lengths)


def alike(matrix: Matrix) -> npt.NDArray[np.float64]:
    """The share of equal numbers, of all pairs."""
    return np.array([(matrix == row).mean(axis=1) for row in matrix])


def by_brute_force(matrix: Matrix, *, threshold: float) -> Leaders:
    similar = alike(matrix)
    leaders = np.full(len(matrix), -1)
    for document in range(len(matrix)):
        for earlier in range(document):
            if leaders[earlier] < 0 and similar[document, earlier] >= threshold:
                leaders[document] = earlier
                break
    return leaders


def test_more_than_can_be_told_apart_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = stored(tmp_path, families(3, count=4))
    everything = np.ones(20, dtype=bool)
    monkeypatch.setattr(near, "_MOST", 20)
    with pytest.raises(InvalidDataError, match="at most 20 documents, and groups"):  # a group in most of 32 bands
        find_leaders(signed, everything, threshold=0.8)
    monkeypatch.setattr(near, "_MOST", 19)
    with pytest.raises(InvalidDataError, match="at most 19") as caught:
        find_leaders(signed, everything, threshold=0.8)
    assert caught.value.value == 20


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95])
def test_banding_finds_what_comparing_all_with_all_finds(tmp_path: Path, threshold: float) -> None:
    matrix = families(1)
    everybody = np.ones(len(matrix), dtype=np.bool_)
    found = find_leaders(stored(tmp_path, matrix, pieces=3), everybody, threshold=threshold)
    similar = alike(matrix)
    followers = np.flatnonzero(found >= 0)
    assert (similar[followers, found[followers]] >= threshold).all()  # none that is not alike
    assert (found[found[followers]] == -1).all()
    assert (found[followers] < followers).all()
    leaders = by_brute_force(matrix, threshold=threshold)
    expected = np.flatnonzero(leaders >= 0)
    assert len(expected) > 50
    assert np.mean(found[expected] == leaders[expected]) >= 0.99  # the first that it is like


def test_the_comparison_notices_too_few_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = families(1)
    expected = by_brute_force(matrix, threshold=0.5) >= 0
    monkeypatch.setattr(near, "_bands", lambda threshold: 4)
    found = find_leaders(stored(tmp_path, matrix), np.ones(len(matrix), dtype=np.bool_), threshold=0.5) >= 0
    assert np.mean(found[expected]) < 0.97


def test_only_those_asked_for_lead_or_follow(tmp_path: Path) -> None:
    matrix = np.repeat(families(2, count=2)[:1], 5, axis=0)
    among = np.array([False, True, False, True, True])
    found = find_leaders(stored(tmp_path, matrix, pieces=2), among, threshold=0.8)
    assert found.tolist() == [-1, -1, -1, 1, 1]


def strangers(count: int, *, seed: int = 3) -> Matrix:
    return np.random.default_rng(seed).integers(0, 2**32, (count, SIGNATURE), dtype=np.uint32)


@pytest.mark.parametrize("count", [1, 10])
def test_documents_that_share_nothing_have_no_leader(tmp_path: Path, count: int) -> None:
    matrix = strangers(count)
    signed = stored(tmp_path, matrix)
    assert find_leaders(signed, np.ones(count, dtype=np.bool_), threshold=0.8).tolist() == [-1] * count
    assert find_leaders(signed, np.zeros(count, dtype=np.bool_), threshold=0.8).tolist() == [-1] * count


def test_what_is_found_depends_neither_on_the_pieces_nor_on_what_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = families(4, count=20)
    everybody = np.ones(len(matrix), dtype=np.bool_)
    expected = find_leaders(stored(tmp_path, matrix), everybody, threshold=0.8)
    monkeypatch.setattr(near, "_CHUNK", 7)
    found = find_leaders(stored(tmp_path, matrix, pieces=6), everybody, threshold=0.8)
    np.testing.assert_array_equal(found, expected)


class Counting(Signatures):
    """Counts the signatures that are looked at."""

    looked_at = 0

    def one(self, document: int) -> Matrix:
        self.looked_at += 1
        return super().one(document)


def test_a_group_of_many_leaders_costs_no_more_than_its_first_ones(tmp_path: Path) -> None:
    matrix = strangers(600)
    matrix[:, :8] = 7  # the same first band, and nothing else in common
    matrix[-1] = matrix[500]
    matrix.tofile(tmp_path / "all.bin")
    signed = Counting([tmp_path / "all.bin"], [len(matrix)])
    found = find_leaders(signed, np.ones(len(matrix), dtype=np.bool_), threshold=0.8)
    assert found.tolist() == [-1] * 599 + [500]  # not among the first of the group, but found by its other bands
    assert signed.looked_at < len(matrix) * (near._LEADERS + 3)


def by_hand(matrix: Matrix, seekers: npt.NDArray[np.bool_], *, threshold: float) -> npt.NDArray[np.bool_]:
    """Seekers that are like a target, or like one that is."""
    similar, reached = alike(matrix) >= threshold, ~seekers
    for _ in matrix:
        reached = reached | similar[:, reached].any(axis=1)
    return reached & seekers


@pytest.mark.parametrize("sorted_at_a_time", [7, 1000])
def test_seekers_are_found_however_many_are_sorted_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sorted_at_a_time: int
) -> None:
    monkeypatch.setattr(near, "_SORTED", sorted_at_a_time)
    matrix = families(5)
    seekers = np.random.default_rng(6).random(len(matrix)) < 0.5
    found = near.find_alike(stored(tmp_path, matrix, pieces=3), seekers, ~seekers, threshold=0.8)
    expected = by_hand(matrix, seekers, threshold=0.8)
    assert expected.sum() > 20
    assert not (found & ~expected).any()
    assert np.mean(found[expected]) >= 0.99
