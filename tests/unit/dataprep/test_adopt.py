"""HDF5 files of other tools as the job's dataset: checked, copied into the project's layout, published."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import numpy.typing as npt
import pytest

from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.hdf5 import Dataset
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep import adopt_files
from regraft_dataprep.pipeline import prepare

M = 8


def windows(count: int, *, seed: int = 0, rows: int = 3, high: int = 500) -> npt.NDArray[np.int32]:
    """Consecutive windows of one stream; the last one is half padding."""
    tokens = np.random.default_rng(seed).integers(1, high, count * M + 1)
    block = np.zeros((count, rows, M), dtype=np.int32)
    block[:, 0], block[:, 1], block[:, 2] = tokens[:-1].reshape(-1, M), 1, tokens[1:].reshape(-1, M)
    block[-1, 1, M // 2 :] = 0
    return block


def write(folder: Path, block: npt.NDArray[Any], *, name: str = "output_chunk_0_0.h5", params: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / name, "w") as file:
        file.create_dataset("data", data=block, chunks=(1, *block.shape[1:]), compression="gzip")
    if params is not None:
        (folder / "data_params.json").write_text(json.dumps(params))
    return folder


def task(uri: object, tokenizer: Path, output: Path, **dataset: Any) -> PrepareTask:
    values = {
        "source": "hdf5",
        "uri": uri if isinstance(uri, list) else str(uri),
        "max_sequence_length": M,
        "examples_per_file": 4,
        **dataset,
    }
    return PrepareTask.model_validate({"dataset": values, "tokenizer_uri": str(tokenizer), "output_uri": str(output)})


def read(uri: str, split: str) -> npt.NDArray[np.int32]:
    with Dataset(local_path(uri) / split) as dataset:
        return dataset.rows(range(len(dataset)))


def test_two_splits_are_taken_over_value_by_value(tmp_path: Path, tokenizer_dir: Path) -> None:
    train, held_out = windows(10), windows(3, seed=1)
    write(tmp_path / "other" / "train", train.astype(np.int64))
    write(tmp_path / "other" / "val", held_out, name="data-00000.h5")
    result = prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out"))
    np.testing.assert_array_equal(read(result.uri, "train"), train)
    np.testing.assert_array_equal(read(result.uri, "eval"), held_out)
    assert (result.train_examples, result.eval_examples, result.cached) == (10, 3, False)
    assert (result.train_tokens, result.eval_tokens) == (10 * M - M // 2, 3 * M - M // 2)
    assert len(list((local_path(result.uri) / "train").glob("*.h5"))) == 3
    assert prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out")).cached
    page = (local_path(result.uri) / "corpus_report.html").read_text()
    assert "10 windows to train on and 3 held out were taken over" in page
    assert "default-src 'none'" in page
    assert [path.name for path in (tmp_path / "out").iterdir()] == [result.address]


def test_files_that_are_done_are_not_done_again(
    tmp_path: Path, tokenizer_dir: Path, make_recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is asked to stop at its third file leaves two, and the next one reads the rest alone."""
    block = windows(12)
    write(tmp_path / "flat", block)
    asked = task(tmp_path / "flat", tokenizer_dir, tmp_path / "out", validation={"fraction": 0.1})
    with pytest.raises(InterruptedStageError, match="goes on at this file"):
        prepare(asked, make_recorder(lambda number: number > 2))
    assert len(list((tmp_path / "out").glob(".work-*/train-*/data.h5"))) == 2
    read_rows, rows = Dataset.rows, []
    monkeypatch.setattr(Dataset, "rows", lambda self, places: (rows.append(len(places)), read_rows(self, places))[1])
    result = prepare(asked)
    assert rows == [3, 1]
    np.testing.assert_array_equal(read(result.uri, "train"), block[:11])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [result.address]


def test_files_that_are_changed_meanwhile_are_refused(tmp_path: Path, tokenizer_dir: Path, make_recorder: Any) -> None:
    write(tmp_path / "flat", windows(12))

    def change(number: int) -> bool:
        os.utime(tmp_path / "flat" / "output_chunk_0_0.h5", (number, number))
        return False

    with pytest.raises(InvalidDataError, match="changed while it was read"):
        prepare(task(tmp_path / "flat", tokenizer_dir, tmp_path / "out"), make_recorder(change))
    assert not list((tmp_path / "out").iterdir())


def test_of_a_flat_folder_the_last_windows_are_held_out(tmp_path: Path, tokenizer_dir: Path) -> None:
    block = windows(10)
    write(tmp_path / "flat", block[:6])
    write(tmp_path / "flat", block[6:], name="output_chunk_0_1.h5")
    result = prepare(task(tmp_path / "flat", tokenizer_dir, tmp_path / "out", validation={"fraction": 0.3}))
    np.testing.assert_array_equal(read(result.uri, "train"), block[:7])
    np.testing.assert_array_equal(read(result.uri, "eval"), block[7:])


def test_the_held_out_windows_may_lie_elsewhere(tmp_path: Path, tokenizer_dir: Path) -> None:
    write(tmp_path / "a", windows(4))
    write(tmp_path / "b", windows(2, seed=1))
    result = prepare(task(tmp_path / "a", tokenizer_dir, tmp_path / "out", validation={"uri": str(tmp_path / "b")}))
    assert (result.train_examples, result.eval_examples) == (4, 2)


def test_files_that_lie_elsewhere_are_copied_once(
    tmp_path: Path, tokenizer_dir: Path, make_recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket's folder with both splits, and what data_params.json beside the files says."""
    block = windows(10)
    inverted = block.copy()
    inverted[:, 1] = 1 - inverted[:, 1]
    write(tmp_path / "other" / "train", inverted, params={"dataset": {"inverted_mask": True}})
    write(tmp_path / "other" / "val", windows(3, seed=1))
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path / "other"), "/bucket", recursive=True)
    asked = task("memory://bucket", tokenizer_dir, tmp_path / "out")
    with pytest.raises(InterruptedStageError):
        prepare(asked, make_recorder(lambda number: number > 1))
    (copy,) = (tmp_path / "out").glob(".adopt-*/*/data")
    assert copy.read_bytes() == (tmp_path / "other" / "train" / "output_chunk_0_0.h5").read_bytes()
    written: list[int] = []
    monkeypatch.setattr(adopt_files, "check_space", lambda path, size: written.append(size))
    result = prepare(asked)
    assert written == [(tmp_path / "other" / "val" / "output_chunk_0_0.h5").stat().st_size]
    np.testing.assert_array_equal(read(result.uri, "train"), block)
    assert result.eval_examples == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == [result.address]
    here = prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out"))
    assert (here.cached, here.address) == (True, result.address)
    system.rm("/bucket", recursive=True)


def test_lists_and_globs_name_one_folder_of_files(tmp_path: Path, tokenizer_dir: Path) -> None:
    block = windows(10)
    for number in range(2):
        write(tmp_path / f"part-{number}", block[5 * number :][:5], name=f"chunk_{number}.h5")
    addresses = set()
    for uri in (str(tmp_path / "part-*" / "*.h5"), [str(tmp_path / f"part-{number}") for number in range(2)]):
        result = prepare(task(uri, tokenizer_dir, tmp_path / "out"))
        np.testing.assert_array_equal(read(result.uri, "train"), block[:9])
        addresses.add(result.address)
    assert len(addresses) == 1
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("clash", ["several are called chunk.h5", "data_params.json differ"])
def test_files_that_make_no_one_folder_are_refused(tmp_path: Path, tokenizer_dir: Path, clash: str) -> None:
    write(tmp_path / "a", windows(4), name="chunk.h5")
    write(tmp_path / "b", windows(4), name="chunk.h5" if "called" in clash else "b.h5", params={"eos_id": 1})
    with pytest.raises(InvalidInputError, match=clash):
        prepare(task([str(tmp_path / "a"), str(tmp_path / "b")], tokenizer_dir, tmp_path / "out"))


def test_an_inverted_mask_is_turned_round(tmp_path: Path, tokenizer_dir: Path) -> None:
    block = windows(6)
    inverted = block.copy()
    inverted[:, 1] = 1 - inverted[:, 1]
    write(tmp_path / "other", inverted, params={"dataset": {"inverted_mask": True}})
    result = prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out", validation={"fraction": 0.2}))
    np.testing.assert_array_equal(read(result.uri, "train"), block[:5])


def test_rows_of_document_boundaries_are_kept(tmp_path: Path, tokenizer_dir: Path) -> None:
    block = windows(5, rows=5)
    block[:, 3], block[:, 4] = np.arange(M)[::-1], np.arange(M)
    write(tmp_path / "other", block)
    result = prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out", validation={"fraction": 0.2}))
    np.testing.assert_array_equal(read(result.uri, "train"), block[:4])


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, {"eos_id": 0}),
        ([], {"eos_id": 0}),
        ({"dataset": None, "processing": 3}, {"eos_id": 0}),
        ({"eos_id": 5, "pad_id": 6}, {"eos_id": 5, "pad_id": 6}),
        ({"processing": {"eos_id": 5, "pad_id": None}, "post-process": {"pad_id": 7}}, {"eos_id": 5, "pad_id": 7}),
    ],
)
def test_the_side_files_have_the_ids_that_are_known(
    params: Any, ids: dict[str, int], tmp_path: Path, tokenizer_dir: Path
) -> None:
    write(tmp_path / "other", windows(10), params=params)
    result = prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out"))
    for split, count in (("train", 9), ("eval", 1)):
        written = json.loads((local_path(result.uri) / split / "data_params.json").read_text())
        assert written["post-process"] == {"n_examples": count, "vocab_size": 512, **ids}


def test_a_full_disk_is_an_error_before_hdf5_meets_it(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "other", windows(6))
    status = os.statvfs(tmp_path)
    values = list(status)
    values[4] = 2**20 // status.f_frsize  # f_bavail: one MiB
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
    with pytest.raises(OSError, match="No space left") as caught:
        prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out"))
    assert caught.value.errno == errno.ENOSPC
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".json" or path.name == "labels"]


def spoilt(change: str) -> npt.NDArray[Any]:
    block = windows(6)
    match change:
        case "labels not shifted":
            block[:, 2] = block[:, 0]
        case "id too large":
            block[3, 0, 2] = block[2, 2, 1] = 100_000
        case "mask of two":
            block[1, 1] = 2
        case "negative label":
            block[0, 2, -1] = -100
    return block


@pytest.mark.parametrize("change", ["labels not shifted", "id too large", "mask of two", "negative label"])
def test_windows_that_would_train_nonsense_are_refused(change: str, tmp_path: Path, tokenizer_dir: Path) -> None:
    write(tmp_path / "other", spoilt(change))
    with pytest.raises(InvalidDataError):
        prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_sequence_length": 16}, "max_sequence_length"),
        ({"cleaning": ["drop_empty"]}, "cleaning"),
        ({"packing": {"remainder": "drop"}}, "packing"),
        ({"validation": {"order": "hashed"}}, "validation"),
    ],
)
def test_options_that_have_no_meaning_for_windows_are_refused(
    options: dict[str, Any], field: str, tmp_path: Path, tokenizer_dir: Path
) -> None:
    write(tmp_path / "other", windows(6))
    with pytest.raises(InvalidInputError, match=f"dataset.{field}"):
        prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out", **options))


def test_the_name_follows_the_bytes(tmp_path: Path, tokenizer_dir: Path) -> None:
    write(tmp_path / "a", windows(6))
    write(tmp_path / "b", windows(6))
    write(tmp_path / "c", windows(6, seed=2))
    one, same, other = (prepare(task(tmp_path / name, tokenizer_dir, tmp_path / name / "out")) for name in "abc")
    assert one.address == same.address != other.address


def test_the_name_follows_what_the_rows_are_taken_for(tmp_path: Path, tokenizer_dir: Path) -> None:
    """The same bytes: as they are, with an inverted mask, and with two rows the other way round."""
    block = windows(10, rows=5)
    block[:, 1] = np.random.default_rng(0).integers(0, 2, (10, M))
    block[:, 3], block[:, 4] = np.arange(M)[::-1], np.arange(M)
    swapped = ["input_ids", "attention_mask", "labels", "position_ids", "attention_span"]
    addresses = set()
    for params in ({}, {"dataset": {"inverted_mask": True}}, {"features": swapped}):
        write(tmp_path / "other", block, params=params)
        result = prepare(task(tmp_path / "other", tokenizer_dir, tmp_path / "out"))
        expected = block[:9, [0, 1, 2, 4, 3]] if "features" in params else block[:9].copy()
        expected[:, 1] = 1 - expected[:, 1] if "dataset" in params else expected[:, 1]
        np.testing.assert_array_equal(read(result.uri, "train"), expected)
        addresses.add(result.address)
    assert len(addresses) == 3


def test_the_name_follows_which_files_are_held_out_and_their_order(tmp_path: Path, tokenizer_dir: Path) -> None:
    one, two = windows(4), windows(4, seed=1)
    cases = {  # in the order of their paths all of these have the same bytes
        "a": {"eval/0": one, "train/0": two},
        "b": {"train/0": one, "val/0": two},
        "c": {"1": one, "2": two},
        "d": {"10": one, "2": two},  # numbers count as numbers when the files are read
    }
    trained = {}
    for case, files in cases.items():
        for name, block in files.items():
            path = tmp_path / case / f"{name}.h5"
            write(path.parent, block, name=path.name)
        result = prepare(task(tmp_path / case, tokenizer_dir, tmp_path / "out"))
        assert not result.cached
        trained[case] = read(result.uri, "train")
    np.testing.assert_array_equal(trained["a"], two)
    np.testing.assert_array_equal(trained["b"], one)
    np.testing.assert_array_equal(trained["c"][:4], one)
    np.testing.assert_array_equal(trained["d"][:4], two)
