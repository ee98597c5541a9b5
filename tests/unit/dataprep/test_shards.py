"""Files of windows: any HDF5 reader finds in them what was cut, and damage is noticed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from piece_making import EOS, Row, stream_of
from regraft.errors import InvalidDataError
from regraft.hdf5 import INPUT_IDS, MASK, Dataset, validate_shard
from regraft.hdf5_chunks import windows_per_chunk
from regraft.specs.dataset import PackingSpec
from regraft_dataprep import shards
from regraft_dataprep.decide import EVAL, TRAIN
from regraft_dataprep.shards import ShardOptions, write_shard
from regraft_dataprep.windows import Block, Evenly, Listed, boundaries, cut, plan_windows

LENGTH = 64
VOCAB = 1000


def rows() -> list[list[Row]]:
    """600 documents in four pieces, some of them of the other split."""
    random = np.random.default_rng(1)
    documents = [
        Row([*random.integers(1, VOCAB, int(size)).tolist(), EOS], EVAL if number % 5 == 0 else TRAIN)
        for number, size in enumerate(random.integers(0, 300, 600))
    ]
    return [documents[at : at + 150] for at in range(0, 600, 150)]


PIECES = rows()
SIZES = np.array([len(row.ids) for piece in PIECES for row in piece if row.side == TRAIN])


def plan_of(**packing: Any) -> Evenly | Listed:
    return plan_windows(SIZES, PackingSpec(**packing), max_sequence_length=LENGTH, stream=TRAIN)


def expected(plan: Evenly | Listed, part: tuple[int, int], *, five: bool) -> Block:
    windows = plan.part(*part)
    tokens, starts = stream_of(PIECES, side=TRAIN).read(*windows.span)
    block = cut(tokens, windows, max_sequence_length=LENGTH, eos_id=EOS)
    spans = boundaries(starts, windows, max_sequence_length=LENGTH)
    return np.concatenate([block, spans], axis=1) if five else block


def write(
    folder: Path,
    plan: Evenly | Listed,
    *,
    part: tuple[int, int] | None = None,
    five: bool = False,
    vocab_size: int = VOCAB,
    threads: int | None = 2,
    tick: Callable[[int], None] = lambda windows: None,
) -> tuple[Path, int]:
    path = folder / "examples_0_0.h5"
    options = ShardOptions(max_sequence_length=LENGTH, eos_id=EOS, vocab_size=vocab_size, boundaries=five)
    labels = write_shard(
        path,
        stream=stream_of(PIECES, side=TRAIN),
        plan=plan,
        part=part or (0, plan.count),
        options=options,
        threads=threads,
        tick=tick,
    )
    return path, labels


@pytest.mark.parametrize("five", [False, True])
@pytest.mark.parametrize("packing", [{}, {"pack_sequences": False}, {"short_seq_prob": 0.3, "remainder": "drop"}])
def test_plain_h5py_reads_what_was_cut(tmp_path: Path, packing: dict[str, Any], five: bool) -> None:
    plan = plan_of(**packing)
    path, labels = write(tmp_path, plan, five=five)
    block = expected(plan, (0, plan.count), five=five)
    per_chunk = windows_per_chunk(LENGTH, rows=5 if five else 3)
    with h5py.File(path) as file:
        data = file["data"]
        assert (data.chunks, data.dtype) == ((per_chunk, 5 if five else 3, LENGTH), np.dtype("<i4"))
        assert (data.compression, data.shuffle, file.attrs["n_examples"]) == ("gzip", True, plan.count)
        np.testing.assert_array_equal(data[:], block, strict=True)
    assert 1 < per_chunk < plan.count
    assert plan.count % per_chunk  # the last chunk is not full
    assert labels == plan.pairs == int(block[:, MASK].sum())
    with Dataset(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset.rows(range(plan.count)), block)


@pytest.mark.parametrize("part", [(0, 1), (7, 300), (100, None)])
def test_a_part_of_the_windows_is_a_file_of_its_own(tmp_path: Path, part: tuple[int, int | None]) -> None:
    plan = plan_of()
    first, last = part[0], part[1] or plan.count
    path, _ = write(tmp_path, plan, part=(first, last))
    with h5py.File(path) as file:
        assert file.attrs["n_examples"] == last - first
        np.testing.assert_array_equal(file["data"][:], expected(plan, (first, last), five=False))


def test_the_bytes_depend_neither_on_threads_nor_on_what_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, told = [], list[int]()
    for number, (threads, size) in enumerate([(1, 16 * 2**20), (3, 16 * 2**20), (1, 2**17), (2, 1)]):
        monkeypatch.setattr(shards, "_BLOCK_BYTES", size)
        folder = tmp_path / str(number)
        folder.mkdir()
        told.clear()
        path, _ = write(folder, plan_of(), threads=threads, tick=told.append)
        with h5py.File(path) as file:
            data = file["data"]
            found = [data.id.get_chunk_info(chunk).chunk_offset for chunk in range(data.id.get_num_chunks())]
            contents.append([data.id.read_direct_chunk(offset)[1] for offset in found])
    assert contents[0] == contents[1] == contents[2] == contents[3]
    assert told == sorted(told)
    assert told[-1] == plan_of().count
    assert len(told) == -(-plan_of().count // windows_per_chunk(LENGTH))


def check(path: Path) -> int:
    return validate_shard(path, max_sequence_length=LENGTH, vocab_size=VOCAB)


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("bit", [1, 0x80])
def test_a_flipped_bit_is_noticed_wherever_it_is_in_the_data(tmp_path: Path, place: float, bit: int) -> None:
    path, labels = write(tmp_path, plan_of())
    assert check(path) == labels
    with h5py.File(path) as file:
        before = file["data"][()]
        data = file["data"].id
        chunk = data.get_chunk_info(int(place * data.get_num_chunks()))
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + int(place * chunk.size)] ^= bit
    path.write_bytes(content)
    try:
        check(path)
    except InvalidDataError as error:
        assert error.value == str(path)
    else:  # another bit of deflate may say the same, as in a run that repeats itself
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["data"][()], before)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_noticed(tmp_path: Path, share: float) -> None:
    path, _ = write(tmp_path, plan_of())
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(InvalidDataError) as caught:
        check(path)
    assert caught.value.reason == "corrupt_artifact"


def test_ids_beyond_the_vocabulary_are_noticed_before_anybody_trains_on_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="expected 0 to 998"):
        write(tmp_path, plan_of(), vocab_size=VOCAB - 1)


def test_labels_that_get_lost_on_the_way_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(*args: Any, **options: Any) -> Block:
        spoilt = cut(*args, **options)
        spoilt[len(spoilt) // 2, MASK, 3] = 0
        return spoilt

    monkeypatch.setattr(shards, "cut", losing)
    with pytest.raises(InvalidDataError, match="labels that count and was given") as caught:
        write(tmp_path, plan_of())
    assert caught.value.reason == "verification_failed"


def test_a_full_disk_is_an_error_before_hdf5_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs(tmp_path)
    values = list(status)
    values[4] = 2**20 // status.f_frsize  # f_bavail: one MiB
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path, plan_of())
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "examples_0_0.h5")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "examples_0_0.h5").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(tmp_path, plan_of())


def ids_of(block: Block) -> npt.NDArray[np.int32]:
    return block[:, INPUT_IDS]


def test_files_of_neighbouring_parts_are_the_split(tmp_path: Path) -> None:
    plan = plan_of()
    for number, first in enumerate(range(0, plan.count, 500)):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number), plan, part=(first, min(first + 500, plan.count)))
    found = []
    for folder in sorted(tmp_path.iterdir()):
        with Dataset(folder) as dataset:
            found.append(ids_of(dataset.rows(range(len(dataset)))))
    np.testing.assert_array_equal(np.concatenate(found), ids_of(expected(plan, (0, plan.count), five=False)))
