"""The drop-in commands reproduce every reference output: arrays by sha256, `data_params.json` but for its paths.

Planted errors, a word that differs and the other generation's rule, are noticed.
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
from typer.testing import CliRunner

from regraft.cli import make_app
from regraft.hdf5 import read_rows, read_shard_info

GOLDENS = os.environ.get("REGRAFT_GOLDENS")
pytestmark = pytest.mark.skipif(not GOLDENS, reason="REGRAFT_GOLDENS names no folder of reference outputs")
FOLDER = Path(GOLDENS or "unset")
RAW = "TRC2-headlines-docs-TRECBLOG.v2"
CLEAN_SHA256 = "7800b814b8c055bf"
PATHS = {"input_dir", "metadata_files", "output_dir", "vocab_file", "encoder_file"}


def run(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(make_app(), [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def tokenizer_flags(*, length: int) -> tuple[object, ...]:
    files = ("--vocab_file", FOLDER / "gpt2" / "vocab.bpe", "--encoder_file", FOLDER / "gpt2" / "encoder.json")
    return ("--tokenizer_type", "GPT2Tokenizer", *files, "--max_seq_length", length, "--seed", 42, "--processes", 1)


def jsonl(folder: Path) -> Path:
    folder.mkdir()
    shutil.copyfile(FOLDER / "data" / "inputs" / "trc2.jsonl", folder / "trc2.jsonl")
    return folder


def rows_of(path: Path) -> Any:
    return read_rows(path, range(read_shard_info(path).examples))


def array_sha256(path: Path) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows_of(path), dtype="<i4").tobytes()).hexdigest()


def without_paths(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: without_paths(inner) for name, inner in value.items() if name not in PATHS}


def params(folder: Path) -> Any:
    return without_paths(json.loads((folder / "data_params.json").read_text(encoding="utf-8")))


def golden(name: str) -> tuple[str, Any]:
    content = json.loads((FOLDER / "data" / "hdf5_goldens.json").read_text(encoding="utf-8"))[name]
    return content["files"]["examples_0_0.h5"]["datasets"]["data"]["sha256"], without_paths(content["data_params"])


@pytest.mark.parametrize("ftfy", ["True", "False"])
def test_lmdata_of_jsonl(tmp_path: Path, ftfy: str) -> None:
    name = "jsonl_128_ftfy" if ftfy == "True" else "jsonl_128_noftfy"
    source, output = jsonl(tmp_path / "jsonl"), tmp_path / "h5"
    flags = tokenizer_flags(length=128)
    run("create-hdf5", "LMData", "--input_dir", source, *flags, "--use_ftfy", ftfy, "--output_dir", output)
    assert (array_sha256(output / "examples_0_0.h5"), params(output)) == golden(name)


def test_one_letter_that_differs_is_noticed(tmp_path: Path) -> None:
    source, output = jsonl(tmp_path / "jsonl"), tmp_path / "h5"
    path = source / "trc2.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    record = json.loads(lines[1000])
    record["text"] = "x" + record["text"]
    path.write_text("".join([*lines[:1000], json.dumps(record) + "\n", *lines[1001:]]), encoding="utf-8")
    flags = tokenizer_flags(length=128)
    run("create-hdf5", "LMData", "--input_dir", source, *flags, "--output_dir", output)
    digest, expected = golden("jsonl_128_ftfy")
    assert array_sha256(output / "examples_0_0.h5") != digest
    assert params(output) != expected


def test_the_documented_steps_with_text_shards(tmp_path: Path) -> None:
    cleaned = tmp_path / f"{RAW}.clean"
    run("trc2", "clean", FOLDER / "data" / "inputs" / RAW, cleaned)
    assert hashlib.sha256(cleaned.read_bytes()).hexdigest().startswith(CLEAN_SHA256)
    root, output = tmp_path / "split", tmp_path / "h5"
    run("trc2", "split", "--input_file", cleaned, "--out_dir", root, "--buffer_len", 1000, "--reference")
    renamed = []
    for line in (root / "train_meta.txt").read_text().splitlines():
        renamed.append(str(Path(line).rename(f"{line}.txt")))
    (root / "train_meta.txt").write_text("\n".join(renamed))
    flags = tokenizer_flags(length=2048)
    run("create-hdf5", "LMData", "--metadata_files", root / "train_meta.txt", *flags, "--output_dir", output)
    assert (array_sha256(output / "examples_0_0.h5"), params(output)) == golden("txt_train_2048_p1")


def test_release_1_8(tmp_path: Path) -> None:
    source, output = jsonl(tmp_path / "jsonl"), tmp_path / "h5"
    flags = (*tokenizer_flags(length=128), "--ftfy", "--write_remainder", "--output_dir", output)
    run("create-hdf5", "preprocessed_text", "--input_dir", source, *flags)
    reference = FOLDER / "release-1.8.0" / "h5_jsonl_128"
    digest = array_sha256(output / "examples_0_0.h5")
    assert digest == array_sha256(reference / "examples_0_0.h5")
    assert digest.startswith("e1d7dffe442ef8b1")
    assert params(output) == params(reference)
    assert (output / "checkpoint_0.txt").read_text() == (reference / "checkpoint_0.txt").read_text()
    # The rule that differs from LMData's shows, so it is not that the sample has no case of it.
    lm_data = rows_of(FOLDER / "data" / "h5" / "jsonl_128_ftfy" / "examples_0_0.h5")
    assert int((rows_of(output / "examples_0_0.h5") != lm_data)[:, 1].sum()) == 13


def test_resumed_reference_output(tmp_path: Path) -> None:
    source, output = jsonl(tmp_path / "jsonl"), tmp_path / "h5"
    words = ("create-hdf5", "LMData", "--input_dir", source, *tokenizer_flags(length=128), "--output_dir", output)
    run(*words, "--files_per_record", 1000)
    for number in (2, 3, 4):
        (output / f"examples_{number}_0.h5").unlink()
    (output / "data_params.json").unlink()
    run(*words, "--files_per_record", 1000, "--resume_from_checkpoint", "True")
    parts = [rows_of(output / f"examples_{number}_0.h5") for number in range(5)]
    digest = hashlib.sha256(np.concatenate(parts).astype("<i4").tobytes()).hexdigest()
    assert digest == golden("jsonl_128_ftfy")[0]
