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

from regraft.hdf5 import Dataset
from regraft_dataprep.pack import Packer
from regraft_dataprep.tokenize import load_tokenizer

EOS = 0
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


def packed(documents: Sequence[Sequence[int]], length: int, *, batch: int) -> list[list[list[int]]]:
    packer = Packer(length, EOS)
    blocks = [packer.add(documents[start : start + batch]) for start in range(0, len(documents), batch)]
    return np.concatenate([*blocks, packer.finish()]).tolist()


@given(DOCUMENTS, st.integers(2, 17), st.integers(1, 7))
@settings(deadline=None)
def test_windows_are_those_of_the_plain_packer_however_they_are_fed(
    documents: list[list[int]], length: int, batch: int
) -> None:
    assert packed(documents, length, batch=batch) == packed_by_lists(documents, length, stride=length)


@pytest.mark.parametrize("off", [-1, 1])
def test_the_comparison_notices_a_stride_that_is_off_by_one(off: int) -> None:
    documents = [list(range(1, 20)), list(range(20, 40))]
    assert packed(documents, 8, batch=1) == packed_by_lists(documents, 8, stride=8)
    assert packed(documents, 8, batch=1) != packed_by_lists(documents, 8, stride=8 + off)


@given(DOCUMENTS, st.integers(2, 17))
@settings(deadline=None)
def test_every_token_but_the_first_is_a_label_exactly_once(documents: list[list[int]], length: int) -> None:
    stream = [token for document in documents for token in [*document, EOS]]
    rows = np.array(packed(documents, length, batch=3), dtype=np.int32).reshape(-1, 3, length)
    assert rows[:, 2][rows[:, 1] == 1].tolist() == stream[1:]
    assert (rows[:, 0][rows[:, 1] == 0] == EOS).all()
    assert (rows[:, 2][rows[:, 1] == 0] == EOS).all()


@pytest.mark.skipif(not GOLDENS, reason="REGRAFT_GOLDENS names no folder of reference outputs")
def test_the_reference_tools_windows_are_reproduced(tmp_path: Path) -> None:
    folder = Path(str(GOLDENS))
    shutil.copyfile(folder / "gpt2" / "encoder.json", tmp_path / "vocab.json")
    shutil.copyfile(folder / "gpt2" / "vocab.bpe", tmp_path / "merges.txt")
    encoder = load_tokenizer(str(tmp_path))
    lines = (folder / "data" / "inputs" / "trc2.jsonl").read_text(encoding="utf-8").splitlines()
    windows = Packer(128, encoder.eos_id).add(encoder.encode([json.loads(line)["text"] for line in lines]))
    with Dataset(folder / "data" / "h5" / "jsonl_128_noftfy") as reference:
        assert len(reference) == len(windows) == 4865  # that tool drops the remainder, which `finish` would give
        np.testing.assert_array_equal(windows, reference.rows(range(4865)))
