"""A job with the preset `reference` makes, of the raw TRC2 file, the arrays of the reference tools, by sha256.

The planted error: two rules of cleaning that change places.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.hdf5 import Dataset
from regraft.specs.cleaning import REFERENCE
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources

GOLDENS = os.environ.get("REGRAFT_GOLDENS")
pytestmark = pytest.mark.skipif(not GOLDENS, reason="REGRAFT_GOLDENS names no folder of reference outputs")
FOLDER = Path(GOLDENS or "unset")
SWAPPED = (REFERENCE[0], REFERENCE[2], REFERENCE[1], *REFERENCE[3:])


def train_sha256(work: Path, **options: Any) -> str:
    """Of the train split's windows."""
    tokenizer = work / "tokenizer"
    tokenizer.mkdir()
    for file, name in (("vocab.bpe", "merges.txt"), ("encoder.json", "vocab.json")):
        shutil.copyfile(FOLDER / "gpt2" / file, tokenizer / name)
    dataset = {
        "preset": "reference",
        "uri": str(FOLDER / "data" / "inputs" / "TRC2-headlines-docs-TRECBLOG.v2"),
        "reading": {"lines_per_shard": 1000},
        "max_sequence_length": 2048,
        **options,
    }
    task = {"dataset": dataset, "tokenizer_uri": str(tokenizer), "output_uri": str(work / "datasets")}
    result = prepare(PrepareTask.model_validate(task), resources=Resources(processes=1, part_bytes=2**20))
    with Dataset(local_path(result.uri) / "train") as windows:
        rows = np.ascontiguousarray(windows.rows(range(len(windows))), dtype="<i4")
    return hashlib.sha256(rows.tobytes()).hexdigest()


def expected() -> str:
    content = json.loads((FOLDER / "data" / "hdf5_goldens.json").read_text(encoding="utf-8"))["txt_train_2048_p1"]
    digest: str = content["files"]["examples_0_0.h5"]["datasets"]["data"]["sha256"]
    return digest


def test_a_job_reproduces_the_reference_arrays(tmp_path: Path) -> None:
    assert train_sha256(tmp_path) == expected()


def test_a_wrong_order_of_the_rules_is_noticed(tmp_path: Path) -> None:
    assert train_sha256(tmp_path, cleaning=SWAPPED) != expected()
