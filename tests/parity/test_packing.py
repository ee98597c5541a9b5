"""Packing equals an independent packer that was written for clarity, and the reference tool's own output."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piece_making import EOS, Row, stream_of
from regraft.hdf5 import Dataset
from regraft.specs.dataset import PackingSpec
from regraft_dataprep.decide import EVAL, TRAIN
from regraft_dataprep.reference.packing import ReferencePacker, Rules
from regraft_dataprep.tokenize import load_tokenizer
from regraft_dataprep.windows import Block, Evenly, cut, plan_windows

GOLDENS = os.environ.get("REGRAFT_GOLDENS")
DOCUMENTS = st.lists(st.lists(st.integers(1, 50), max_size=12), max_size=20)


def packed_by_lists(documents: Sequence[Sequence[int]], length: int, *, stride: int) -> list[list[list[int]]]:
    stream = [token for document in documents for token in [*document, EOS]]
    windows = []
    for start in range(0, len(stream) - 1, stride):
        window = stream[start : start + length + 1]
        missing = length + 1 - len(window)
        ids, labels = window[:-1] + [EOS] * missing, window[1:] + [EOS] * missing
        windows.append([ids, [1] * (length - missing) + [0] * missing, labels])
    return windows


def packed_by_reference(documents: Sequence[Sequence[int]], length: int) -> list[list[list[int]]]:
    packer = ReferencePacker(Rules(max_seq_length=length, pad_id=EOS, keep_m_tokens=False), seed=0)
    return [window for document in documents for window in packer.add([*document, EOS]).tolist()]


def packed(
    documents: Sequence[Sequence[int]], length: int, *, piece: int = 3, part: int = 5, remainder: str = "pad"
) -> list[list[list[int]]]:
    """Windows as a preparation makes them: `piece` documents in each piece, `part` windows at a time."""
    rows = [Row([*document, EOS], TRAIN) for document in documents]
    held_out = [Row([51, 52, EOS], EVAL)]  # of no influence, wherever it stands
    pieces = [rows[at : at + piece] + held_out for at in range(0, len(rows), piece)] or [held_out]
    packing = PackingSpec.model_validate({"remainder": remainder})
    sizes = np.array([len(row.ids) for row in rows], dtype=np.int64)
    plan = plan_windows(sizes, packing, max_sequence_length=length, stream=TRAIN)
    found: list[list[list[int]]] = []
    for first in range(0, plan.count, part):
        windows = plan.part(first, min(first + part, plan.count))
        tokens, _ = stream_of(pieces, side=TRAIN).read(*windows.span)
        found += cut(tokens, windows, max_sequence_length=length, eos_id=EOS).tolist()
    return found


@given(DOCUMENTS, st.integers(2, 17), st.integers(1, 7), st.integers(1, 7))
@settings(deadline=None)
def test_windows_are_those_of_the_plain_packer_whoever_cuts_them(
    documents: list[list[int]], length: int, piece: int, part: int
) -> None:
    assert packed(documents, length, piece=piece, part=part) == packed_by_lists(documents, length, stride=length)


@given(DOCUMENTS, st.integers(3, 17), st.integers(1, 7))
@settings(deadline=None)
def test_without_the_remainder_windows_are_those_of_the_reference_packer(
    documents: list[list[int]], length: int, piece: int
) -> None:
    assert packed(documents, length, piece=piece, remainder="drop") == packed_by_reference(documents, length)


@pytest.mark.parametrize("off", [-1, 1])
def test_the_comparison_notices_a_stride_that_is_off_by_one(off: int) -> None:
    documents = [list(range(1, 20)), list(range(20, 40))]
    assert packed(documents, 8) == packed_by_lists(documents, 8, stride=8)
    assert packed(documents, 8) != packed_by_lists(documents, 8, stride=8 + off)


def test_the_comparison_notices_a_document_without_its_end_and_a_remainder_that_is_kept() -> None:
    documents = [list(range(1, 20)), list(range(20, 43))]
    expected = packed_by_reference(documents, 8)
    assert packed(documents, 8, remainder="drop") == expected
    assert packed([documents[0] + documents[1]], 8, remainder="drop") != expected
    assert packed(documents, 8, remainder="pad") != expected


@pytest.mark.skipif(not GOLDENS, reason="REGRAFT_GOLDENS names no folder of reference outputs")
def test_the_reference_tools_windows_are_reproduced(tmp_path: Path) -> None:
    folder = Path(str(GOLDENS))
    shutil.copyfile(folder / "gpt2" / "encoder.json", tmp_path / "vocab.json")
    shutil.copyfile(folder / "gpt2" / "vocab.bpe", tmp_path / "merges.txt")
    encoder = load_tokenizer(str(tmp_path))
    lines = (folder / "data" / "inputs" / "trc2.jsonl").read_text(encoding="utf-8").splitlines()
    rows = encoder.encode([json.loads(line)["text"] for line in lines])
    windows = full_windows(np.array([token for ids in rows for token in [*ids, encoder.eos_id]]), encoder.eos_id)
    with Dataset(folder / "data" / "h5" / "jsonl_128_noftfy") as reference:
        assert len(reference) == len(windows) == 4865  # that tool drops the remainder
        np.testing.assert_array_equal(windows, reference.rows(range(4865)))


def full_windows(stream: np.ndarray, eos_id: int) -> Block:
    plan = Evenly(len(stream), max_sequence_length=128, drop=True)
    windows = plan.part(0, plan.count)
    return cut(stream[slice(*windows.span)].astype(np.int32), windows, max_sequence_length=128, eos_id=eos_id)
