"""HDF5 files that are named: all of them are read, as they are now, or the dataset is refused by their names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.specs.stages import PrepareTask
from regraft.storage import is_published, local_path
from regraft_dataprep.adopt_files import NamedFiles
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.sources.hdf5 import Hdf5Source
from unit.dataprep.test_adopt import M, read, task, windows, write

BLOCK = windows(10)
INVERTED = {"dataset": {"inverted_mask": True}}
ELSEWHERE = """
import sys
from regraft.specs.stages import PrepareTask
from regraft_dataprep.pipeline import prepare
prepare(PrepareTask.model_validate_json(sys.argv[1]))
"""


@pytest.fixture
def bucket() -> Iterator[Any]:
    """A file system that is not this machine's, with an empty folder /bucket."""
    system = fsspec.filesystem("memory")
    system.mkdirs("/bucket", exist_ok=True)
    yield system
    system.rm("/bucket", recursive=True)


def put(system: Any, folder: Path, block: Any, name: str) -> None:
    write(folder, block, name=name)
    system.put(str(folder / name), f"/bucket/{name}")


def stopped(asked: PrepareTask, make_recorder: Any, *, at: int) -> None:
    with pytest.raises(InterruptedStageError):
        prepare(asked, make_recorder(lambda number: number >= at))


def only(folder: Path) -> str:
    """The one thing in a folder."""
    (path,) = folder.iterdir()
    return path.name


def test_a_file_of_another_name_does_not_lie_beside_its_earlier_copy(
    tmp_path: Path, tokenizer_dir: Path, make_recorder: Any, bucket: Any
) -> None:
    """Its bytes are the same, and so is the room of the copies."""
    put(bucket, tmp_path / "files", BLOCK, "a.h5")
    asked = task("memory://bucket", tokenizer_dir, tmp_path / "out")
    stopped(asked, make_recorder, at=2)  # the copy is made, and no window
    bucket.mv("/bucket/a.h5", "/bucket/b.h5")
    result = prepare(asked)
    np.testing.assert_array_equal(read(result.uri, "train"), BLOCK[:9])
    assert result.eval_examples == 1
    assert only(tmp_path / "out") == result.address


def test_of_links_too(tmp_path: Path, tokenizer_dir: Path, make_recorder: Any) -> None:
    write(tmp_path / "files", BLOCK, name="a.h5")
    stopped(task([str(tmp_path / "files" / "a.h5")], tokenizer_dir, tmp_path / "out"), make_recorder, at=1)
    (tmp_path / "files" / "a.h5").rename(tmp_path / "files" / "b.h5")
    result = prepare(task([str(tmp_path / "files" / "b.h5")], tokenizer_dir, tmp_path / "out"))
    np.testing.assert_array_equal(read(result.uri, "train"), BLOCK[:9])
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 1


@pytest.mark.parametrize(("before", "after"), [(None, INVERTED), (INVERTED, None), (INVERTED, {})])
def test_params_that_were_changed_after_a_stop_are_those_of_now(
    before: Any, after: Any, tmp_path: Path, tokenizer_dir: Path, make_recorder: Any, bucket: Any
) -> None:
    put(bucket, tmp_path / "files", BLOCK, "a.h5")
    asked = task("memory://bucket", tokenizer_dir, tmp_path / "out")
    for params, run in ((before, lambda: stopped(asked, make_recorder, at=2)), (after, lambda: None)):
        bucket.rm("/bucket/data_params.json") if bucket.exists("/bucket/data_params.json") else None
        if params is not None:
            bucket.pipe("/bucket/data_params.json", json.dumps(params).encode())
        run()
    expected = BLOCK.copy()
    expected[:, 1] = 1 - expected[:, 1] if after is INVERTED else expected[:, 1]
    np.testing.assert_array_equal(read(prepare(asked).uri, "train"), expected[:9])


def test_a_copy_with_other_bytes_of_the_same_size_is_made_again(
    tmp_path: Path, tokenizer_dir: Path, make_recorder: Any, bucket: Any
) -> None:
    put(bucket, tmp_path / "files", BLOCK, "a.h5")
    asked = task("memory://bucket", tokenizer_dir, tmp_path / "out")
    stopped(asked, make_recorder, at=2)
    (copy,) = (tmp_path / "out").glob(".adopt-*/*/data")
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    np.testing.assert_array_equal(read(prepare(asked).uri, "train"), BLOCK[:9])


def test_a_copy_that_is_not_of_the_bytes_that_were_seen_is_refused(
    tmp_path: Path, tokenizer_dir: Path, make_recorder: Any, bucket: Any
) -> None:
    put(bucket, tmp_path / "files", BLOCK, "a.h5")
    content = bytearray(bucket.cat_file("/bucket/a.h5"))
    content[-1] ^= 1

    def change(number: int) -> bool:
        bucket.pipe("/bucket/b.h5", bytes(content))
        return False

    put(bucket, tmp_path / "files", windows(10, seed=1), "b.h5")
    with pytest.raises(InvalidDataError, match=r"changed while it was read") as caught:
        prepare(task("memory://bucket", tokenizer_dir, tmp_path / "out"), make_recorder(change))
    assert str(caught.value.value).endswith("/bucket/b.h5")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("away", [False, True])
def test_params_that_are_changed_meanwhile_are_noticed(
    away: bool, tmp_path: Path, tokenizer_dir: Path, make_recorder: Any
) -> None:
    params = tmp_path / "files" / "data_params.json"
    write(tmp_path / "files", BLOCK, params={})

    def change(number: int) -> bool:
        params.unlink(missing_ok=True) if away else params.write_text(json.dumps(INVERTED))
        return False

    with pytest.raises(InvalidDataError, match="changed while it was read") as caught:
        prepare(task(tmp_path / "files", tokenizer_dir, tmp_path / "out"), make_recorder(change))
    assert caught.value.value == str(params)


@pytest.mark.parametrize("names", [("a.h5", "b.hdf5"), ("A.H5", "b.h5"), ("a.h5", "b"), ("a.hdf5", "b.hdf5")])
@pytest.mark.parametrize("by_name", [False, True])
def test_all_files_that_are_named_are_read(
    names: tuple[str, str], by_name: bool, tmp_path: Path, tokenizer_dir: Path
) -> None:
    for name, block in zip(names, (BLOCK[:5], BLOCK[5:]), strict=True):
        write(tmp_path / "files", block, name=name)
    folder = tmp_path / "files"
    uri = [str(folder / name) for name in names] if by_name or "b" in names else folder
    result = prepare(task(uri, tokenizer_dir, tmp_path / "out"))
    assert (result.train_examples, result.eval_examples) == (9, 1)
    np.testing.assert_array_equal(read(result.uri, "train"), BLOCK[:9])


def test_what_a_folder_hides_is_not_read(tmp_path: Path, tokenizer_dir: Path) -> None:
    write(tmp_path / "files", BLOCK, name="a.h5")
    (tmp_path / "files" / "._a.h5").write_bytes(b"what a Mac puts beside every file")
    assert prepare(task(tmp_path / "files", tokenizer_dir, tmp_path / "out")).train_examples == 9


@pytest.mark.parametrize(
    "files", [("a.h5", "sub/b.h5"), ("train/a.h5", "eval/b.h5", "test/c.h5"), ("train/a.h5", "val/b.h5", "c.H5")]
)
def test_files_that_would_be_in_no_split_are_refused_by_name(
    files: tuple[str, ...], tmp_path: Path, tokenizer_dir: Path
) -> None:
    for name in files:
        path = tmp_path / "files" / name
        write(path.parent, windows(4), name=path.name)
    with pytest.raises(InvalidInputError, match="1 files would be in no split") as caught:
        prepare(task(tmp_path / "files", tokenizer_dir, tmp_path / "out"))
    assert caught.value.field == "dataset.uri"
    assert str(caught.value.value).startswith(files[-1])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_folder_behind_a_link_is_refused(tmp_path: Path, tokenizer_dir: Path) -> None:
    write(tmp_path / "files" / "train", BLOCK)
    write(tmp_path / "held out", windows(3))
    (tmp_path / "files" / "eval").symlink_to(tmp_path / "held out")
    with pytest.raises(InvalidInputError, match="behind a symbolic link"):
        prepare(task(tmp_path / "files", tokenizer_dir, tmp_path / "out"))


def test_this_machines_own_file_system_by_fsspecs_name(tmp_path: Path, tokenizer_dir: Path) -> None:
    write(tmp_path / "some files", BLOCK)
    by_path = prepare(task(tmp_path / "some files", tokenizer_dir, tmp_path / "out"))
    by_name = prepare(task(f"local://{tmp_path}/some files", tokenizer_dir, tmp_path / "out"))
    assert (by_name.address, by_name.cached) == (by_path.address, True)
    assert only(tmp_path / "out") == by_path.address


@pytest.mark.parametrize("key", ["../../a.h5", "/a.h5", "x/../../a.h5"])
def test_keys_that_lead_out_of_the_folder_are_refused(key: str, tmp_path: Path) -> None:
    """Stores take any key for an object; no file system that is tried here does."""
    write(tmp_path / "files", BLOCK, name="a.h5")
    source = Hdf5Source(tmp_path / "files")
    source.files = [replace(source.files[0], name=key, uri=f"s3://bucket/{key}")]
    with pytest.raises(InvalidInputError, match="leads out of the folder") as caught:
        NamedFiles(["s3://bucket"], source, source.inventory().digests)
    assert caught.value.value == f"s3://bucket/{key}"


def test_copies_of_files_that_make_no_dataset_are_deleted(tmp_path: Path, tokenizer_dir: Path, bucket: Any) -> None:
    put(bucket, tmp_path / "files", BLOCK, "a.h5")
    with pytest.raises(InvalidInputError, match=f"windows of {M} tokens"):
        prepare(task("memory://bucket", tokenizer_dir, tmp_path / "out", max_sequence_length=2 * M))
    assert not list((tmp_path / "out").iterdir())


def test_copies_that_somebody_who_was_faster_has_deleted_are_made_again(
    tmp_path: Path, tokenizer_dir: Path, make_recorder: Any, bucket: Any
) -> None:
    put(bucket, tmp_path / "files", BLOCK[:5], "a.h5")
    put(bucket, tmp_path / "files", BLOCK[5:], "b.h5")

    def delete(number: int) -> bool:
        if number == 2:  # the second copy is under way
            (room,) = (tmp_path / "out").glob(".adopt-*")
            shutil.rmtree(room)
        return False

    result = prepare(task("memory://bucket", tokenizer_dir, tmp_path / "out"), make_recorder(delete))
    np.testing.assert_array_equal(read(result.uri, "train"), BLOCK[:9])


@pytest.mark.parametrize("at", [1, 4])
def test_two_who_adopt_the_same_files_have_the_same_dataset(
    at: int, tmp_path: Path, tokenizer_dir: Path, make_recorder: Any
) -> None:
    """The faster one publishes, and deletes what the other is working with."""
    write(tmp_path / "files", BLOCK, name="a.H5")
    asked = task(tmp_path / "files", tokenizer_dir, tmp_path / "out")

    def be_slow(number: int) -> bool:
        if number == at:
            subprocess.run([sys.executable, "-c", ELSEWHERE, asked.model_dump_json()], check=True, timeout=120)
        return False

    result = prepare(asked, make_recorder(be_slow))
    assert is_published(local_path(result.uri))
    np.testing.assert_array_equal(read(result.uri, "train"), BLOCK[:9])
    assert only(tmp_path / "out") == result.address
