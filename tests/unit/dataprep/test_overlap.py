"""The overlap between the splits is that which was put there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from piece_making import WORDS, words, write_piece
from regraft_dataprep.decide import DROPPED, EVAL, TRAIN, Sides
from regraft_dataprep.document import Document
from regraft_dataprep.overlap import measure_overlap
from regraft_dataprep.pieces import Piece

TOKENS = 1500
PAIRS = 40


def pieces_with(folder: Path, *, copied: float, reverse: bool = False) -> tuple[list[Piece], Sides]:
    """Documents to train on and to hold out in three pieces; of each held-out one a share is copied from training."""
    random = np.random.default_rng(1)
    texts: list[tuple[list[int], int]] = []
    for _ in range(PAIRS):
        trained, own = (random.integers(0, WORDS, TOKENS).tolist() for _ in range(2))
        start = int(random.integers(0, TOKENS - int(copied * TOKENS) + 1))
        taken = trained[start : start + int(copied * TOKENS)]
        texts += [(trained[::-1] if reverse else trained, TRAIN), (taken + own[len(taken) :], EVAL)]
    shuffled = [texts[number] for number in random.permutation(len(texts))]
    parts = [shuffled[at::3] for at in range(3)]
    pieces = [
        write_piece(folder / str(number), [Document(words(text)) for text, _ in part], with_signatures=False)
        for number, part in enumerate(parts)
    ]
    return pieces, np.array([side for part in parts for _, side in part], dtype=np.uint8)


@pytest.mark.parametrize("copied", [0.0, 0.3, 0.8, 1.0])
def test_what_was_copied_is_found(tmp_path: Path, copied: float) -> None:
    found = measure_overlap(*pieces_with(tmp_path, copied=copied))
    expected = PAIRS * TOKENS / 64
    assert abs(found["spans"] - expected) < 5 * np.sqrt(expected)
    assert found["share"] == pytest.approx(copied, abs=0.06 if 0 < copied < 1 else 0.002)
    assert found["documents_half_seen"] == pytest.approx(PAIRS if copied > 0.5 else 0, abs=3)


def test_the_same_words_in_another_order_are_no_overlap(tmp_path: Path) -> None:
    assert measure_overlap(*pieces_with(tmp_path, copied=1.0, reverse=True))["share"] < 0.002


def test_what_is_dropped_is_not_seen_in_training(tmp_path: Path) -> None:
    pieces, sides = pieces_with(tmp_path, copied=1.0)
    found = measure_overlap(pieces, np.where(sides == TRAIN, DROPPED, sides).astype(np.uint8))
    assert (found["share"], found["documents_half_seen"]) == (0.0, 0)


def test_documents_too_short_for_a_span_have_no_share(tmp_path: Path) -> None:
    piece = write_piece(tmp_path / "piece", [Document("w1 w2"), Document("w1 w2")])
    found = measure_overlap([piece], np.array([TRAIN, EVAL], dtype=np.uint8))
    assert found == {"spans": 0, "share": None, "documents_half_seen": 0}
