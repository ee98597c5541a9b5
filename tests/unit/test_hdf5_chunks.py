"""Chunks of several windows: what is written is what any HDF5 reader finds, wherever a reader begins."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft.hdf5 import COUNT, Dataset, validate_shard
from regraft.hdf5_chunks import DATASET, append, create_dataset, deflated, is_direct, over_windows, windows_per_chunk

LENGTH = 16
_numbers = itertools.count()


def windows(count: int, *, rows: int = 3, length: int = LENGTH) -> np.ndarray:
    """Every byte of a value is used, as no ids would."""
    return np.random.default_rng(count).integers(-(2**31), 2**31, (count, rows, length), dtype=np.int32)


@contextmanager
def written(block: np.ndarray, *, per_chunk: int, ends: tuple[int, ...] = ()) -> Iterator[h5py.Dataset]:
    """A file in memory, filled by blocks that end at `ends`."""
    with h5py.File(f"windows-{next(_numbers)}.h5", "w", driver="core", backing_store=False) as file:
        _, rows, length = block.shape
        data = create_dataset(file, max_sequence_length=length, rows=rows, per_chunk=per_chunk)
        for first, last in pairwise([0, *ends, len(block)]):
            append(data, block[first:last], threads=2)
        yield data


@pytest.mark.parametrize(("length", "rows"), [(2, 3), (16, 3), (512, 3), (2048, 3), (2048, 5), (8334, 3), (10**6, 3)])
def test_a_chunk_has_at_most_100_kb_or_one_window(length: int, rows: int) -> None:
    found = windows_per_chunk(length, rows=rows)
    size = 4 * rows * length
    assert found & (found - 1) == 0  # a power of two
    assert found * size <= 100_000 or found == 1
    assert 2 * found * size > 100_000


@pytest.mark.parametrize("rows", [3, 5])
@pytest.mark.parametrize("per_chunk", [1, 2, 4, 64])
@pytest.mark.parametrize("count", [1, 3, 4, 63, 64, 65, 200])
def test_h5pys_own_reading_is_what_was_written(count: int, per_chunk: int, rows: int) -> None:
    block = windows(count, rows=rows)
    with written(block, per_chunk=per_chunk) as data:
        assert (data.shape, data.chunks) == (block.shape, (per_chunk, rows, LENGTH))
        np.testing.assert_array_equal(data[:], block, strict=True)
        np.testing.assert_array_equal(data[count // 2 :: 3], block[count // 2 :: 3])
        assert is_direct(data)
        np.testing.assert_array_equal(np.concatenate(list(over_windows(np.copy, data, slice(None)))), block)


def test_blocks_that_fill_their_chunks_give_the_bytes_of_one_block() -> None:
    block = windows(50)
    with written(block, per_chunk=4) as whole, written(block, per_chunk=4, ends=(8, 24)) as parts:
        np.testing.assert_array_equal(parts[:], block)
        for start in range(0, 50, 4):
            assert whole.id.read_direct_chunk((start, 0, 0)) == parts.id.read_direct_chunk((start, 0, 0))


def test_a_block_after_an_unfilled_chunk_is_a_fault_of_the_caller() -> None:
    with written(windows(6), per_chunk=4) as data, pytest.raises(AssertionError, match="has not filled"):
        append(data, windows(2))


@given(st.integers(1, 90), st.sampled_from([1, 2, 4, 32]), st.integers(0, 99), st.integers(0, 99), st.integers(1, 4))
@settings(deadline=None, max_examples=150)
def test_any_part_is_read_wherever_in_a_chunk_it_begins_and_ends(
    count: int, per_chunk: int, one: int, other: int, threads: int
) -> None:
    block = windows(count)
    first, last = sorted((one, other))
    with written(block, per_chunk=per_chunk) as data, pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.hdf5_chunks._GROUP_BYTES", 3 * 4 * 3 * LENGTH * per_chunk)  # three chunks at a time
        parts = list(over_windows(np.copy, data, slice(first, last), threads=threads))
        found = np.concatenate([block[:0], *parts])
        np.testing.assert_array_equal(found, block[first:last])


def test_the_comparison_notices_a_part_that_begins_one_window_late() -> None:
    block = windows(40)
    with written(block, per_chunk=4) as data:
        found = np.concatenate(list(over_windows(np.copy, data, slice(6, 21))))
        np.testing.assert_array_equal(found, block[6:21])
        assert not np.array_equal(found, block[7:22])


def test_what_fills_the_last_chunk_is_zero_and_never_read() -> None:
    block = windows(5)
    (first, last) = deflated(block, per_chunk=4)
    with written(np.concatenate([block, np.zeros_like(block[:3])]), per_chunk=4) as padded:
        assert [padded.id.read_direct_chunk((at, 0, 0))[1] for at in (0, 4)] == [first, last]
    with written(block, per_chunk=4) as data:
        assert [len(part) for part in over_windows(np.copy, data, slice(None))] == [5]


def grown(data: h5py.Dataset) -> None:
    data.resize(20, axis=0)


def without_filters(data: h5py.Dataset) -> None:
    plain(data, chunks=(4, 3, LENGTH))


def other_filters(data: h5py.Dataset) -> None:
    plain(data, chunks=(4, 3, LENGTH), compression="gzip")


def other_type(data: h5py.Dataset) -> None:
    plain(data, chunks=(4, 3, LENGTH), compression="gzip", shuffle=True, dtype="<i8")


def split_windows(data: h5py.Dataset) -> None:
    plain(data, chunks=(4, 3, LENGTH // 2), compression="gzip", shuffle=True)


def contiguous(data: h5py.Dataset) -> None:
    plain(data)


OTHERS = [grown, without_filters, other_filters, other_type, split_windows, contiguous]


def plain(data: h5py.Dataset, *, dtype: str = "<i4", **options: Any) -> None:
    file, content = data.file, data[:]
    del file[DATASET]
    file.create_dataset(DATASET, data=content.astype(dtype), **options)


@pytest.mark.parametrize("change", OTHERS)
def test_a_file_of_another_make_is_left_to_hdf5(change: Callable[[h5py.Dataset], None]) -> None:
    with written(windows(10), per_chunk=4) as data:
        file = data.file
        assert is_direct(file[DATASET])
        change(data)
        assert not is_direct(file[DATASET])


def test_a_file_that_hdf5_filtered_itself_in_such_chunks_is_read_directly() -> None:
    block = windows(10)
    with h5py.File("windows.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset(DATASET, data=block, chunks=(4, 3, LENGTH), compression="gzip", shuffle=True)
        assert is_direct(data)
        np.testing.assert_array_equal(np.concatenate(list(over_windows(np.copy, data, slice(3, 9)))), block[3:9])


def stored(folder: Path, *, per_chunk: int, count: int = 45) -> tuple[Path, np.ndarray]:
    block = np.abs(windows(count, rows=5)) % 100
    block[:, 1] %= 2
    path = folder / "examples_0_0.h5"
    with h5py.File(path, "w") as file:
        data = create_dataset(file, max_sequence_length=LENGTH, rows=5, per_chunk=per_chunk)
        append(data, block)
        file.attrs[COUNT] = count
    return path, block


@pytest.mark.parametrize("per_chunk", [1, 4, 64])
def test_validation_and_random_reading_do_not_care_for_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_chunk: int
) -> None:
    monkeypatch.setattr("regraft.hdf5._VALIDATION_BYTES", 7 * 4 * 5 * LENGTH)  # parts begin within chunks
    path, block = stored(tmp_path, per_chunk=per_chunk)
    assert validate_shard(path, max_sequence_length=LENGTH, vocab_size=100, rows=5) == int(block[:, 1].sum())
    with pytest.raises(InvalidDataError, match="expected 0 to 98"):
        validate_shard(path, max_sequence_length=LENGTH, vocab_size=99, rows=5)
    order = np.random.default_rng(1).permutation(len(block))
    with Dataset(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset.rows(order), block[order])
