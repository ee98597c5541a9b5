"""The HDF5 layout: what is written, what is refused, how it is read."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from regraft import hdf5, hdf5_reader
from regraft.errors import InvalidDataError
from regraft.hdf5 import Dataset, ShardWriter, list_shards, read_rows, read_shard_info, validate_shard
from regraft.hdf5_chunks import is_direct, over_windows

LENGTH = 8
VOCAB = 100


def windows(count: int, *, start: int = 0) -> np.ndarray:
    """Window i has i % VOCAB everywhere but in its mask, which is 1 but for the last position."""
    block = np.zeros((count, 3, LENGTH), dtype=np.int32)
    block[:] = (np.arange(start, start + count) % VOCAB)[:, None, None]
    block[:, hdf5.MASK] = 1
    block[:, hdf5.MASK, -1] = 0
    return block


def write(folder: Path, *, examples: int, per_file: int = 50_000, block: int = 7) -> list[Path]:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, max_sequence_length=LENGTH, examples_per_file=per_file) as writer:
        for start in range(0, examples, block):
            writer.write(windows(min(block, examples - start), start=start))
    return writer.paths


def test_a_file_has_the_documented_layout(tmp_path: Path) -> None:
    (path,) = write(tmp_path, examples=20)
    with h5py.File(path) as file:
        data = file["data"]
        assert list(file) == ["data"]
        assert (data.shape, data.dtype, data.chunks) == ((20, 3, LENGTH), np.dtype("<i4"), (1, 3, LENGTH))
        assert (data.compression, file.attrs["n_examples"]) == ("gzip", 20)
        np.testing.assert_array_equal(data[:], windows(20))


@pytest.mark.parametrize(("examples", "sizes"), [(9, [4, 4, 1]), (8, [4, 4]), (3, [3]), (0, [])])
def test_files_roll_over_exactly_when_they_are_full(tmp_path: Path, examples: int, sizes: list[int]) -> None:
    paths = write(tmp_path, examples=examples, per_file=4)
    assert [path.name for path in paths] == [f"examples_{number}_0.h5" for number in range(len(sizes))]
    assert [read_shard_info(path).examples for path in paths] == sizes


def test_one_block_may_fill_several_files(tmp_path: Path) -> None:
    paths = write(tmp_path, examples=11, per_file=3, block=11)
    assert [read_shard_info(path).examples for path in paths] == [3, 3, 3, 2]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_equal_windows_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, examples=20)[0].read_bytes() for name in "ab")
    assert first == second


def odd_windows(count: int, *, length: int) -> np.ndarray:
    """Every byte of a value is used, as no ids would."""
    return np.random.default_rng(length).integers(-(2**31), 2**31, (count, 3, length), dtype=np.int32)


@pytest.mark.parametrize(("count", "length"), [(1, 2), (1, 8), (700, 129), (50, 2048), (3, 200_003)])
def test_plain_h5py_reads_the_windows_through_standard_filters(tmp_path: Path, count: int, length: int) -> None:
    block = odd_windows(count, length=length)
    with ShardWriter(tmp_path, max_sequence_length=length) as writer:
        writer.write(block)
    with h5py.File(writer.paths[0]) as file:
        data = file["data"]
        plist = data.id.get_create_plist()
        filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
        assert filters == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
        assert (data.dtype, data.chunks, data.maxshape) == (np.dtype("<i4"), (1, 3, length), (None, 3, length))
        np.testing.assert_array_equal(data[:], block, strict=True)
        parts = list(over_windows(lambda part: part, data, slice(None)))
        np.testing.assert_array_equal(np.concatenate(parts), block, strict=True)


def test_the_bytes_depend_neither_on_the_threads_nor_on_the_blocks(tmp_path: Path) -> None:
    block = odd_windows(400, length=512)
    files = set()
    for number, (threads, step) in enumerate([(1, 400), (2, 400), (5, 400), (None, 37), (3, 1)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with ShardWriter(folder, max_sequence_length=512, threads=threads) as writer:
            for start in range(0, len(block), step):
                writer.write(block[start : start + step])
        with h5py.File(writer.paths[0]) as file:
            files.add(b"".join(file["data"].id.read_direct_chunk((row, 0, 0))[1] for row in range(400)))
        if step == 400:
            files.add(writer.paths[0].read_bytes())
    assert len(files) == 2  # the chunks, and the whole file


def test_windows_may_be_a_view_that_is_not_contiguous(tmp_path: Path) -> None:
    block = odd_windows(40, length=2 * LENGTH)[::3, :, ::2]
    with ShardWriter(tmp_path, max_sequence_length=LENGTH) as writer:
        writer.write(block)
    np.testing.assert_array_equal(read_rows(writer.paths[0], range(len(block))), block)


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {}, {"compression": "gzip", "shuffle": True}])
def test_files_that_hdf5_filtered_itself_are_validated_too(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "examples_0_0.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=windows(20), chunks=(1, 3, LENGTH), **options)
        file.attrs["n_examples"] = 20
    assert validate_shard(path, max_sequence_length=LENGTH, vocab_size=VOCAB) == 20 * (LENGTH - 1)


def rewritten(content: bytes, mask: int = 0) -> Callable[[h5py.Dataset], None]:
    return lambda data: data.id.write_direct_chunk((3, 0, 0), content, mask)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (rewritten(b"no deflate"), "cannot be inflated"),
        (rewritten(zlib.compress(b"short")), "5 bytes, not 96"),
        (rewritten(bytes(96), mask=3), "without its filters"),
    ],
)
def test_validation_notices_a_chunk_that_is_not_what_was_written(
    tmp_path: Path, damage: Callable[[h5py.Dataset], None], said: str
) -> None:
    (path,) = write(tmp_path, examples=5)
    with h5py.File(path, "r+") as file:
        damage(file["data"])
    with pytest.raises(InvalidDataError, match=said):
        validate_shard(path, max_sequence_length=LENGTH, vocab_size=VOCAB)


def test_a_row_that_was_never_written_is_read_by_hdf5(tmp_path: Path) -> None:
    (path,) = write(tmp_path, examples=5)
    with h5py.File(path, "r+") as file:
        file["data"].resize(6, axis=0)
        file.attrs["n_examples"] = 6
        assert not is_direct(file["data"])
    assert validate_shard(path, max_sequence_length=LENGTH, vocab_size=VOCAB) == 5 * (LENGTH - 1)


def test_shards_are_listed_by_number_not_by_spelling(tmp_path: Path) -> None:
    write(tmp_path, examples=12, per_file=1)
    assert [path.name for path in list_shards(tmp_path)] == [f"examples_{number}_0.h5" for number in range(12)]


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write(tmp_path / "train", examples=1)
    with pytest.raises(InvalidDataError, match=str(tmp_path)):
        list_shards(tmp_path)


def test_validation_counts_the_labels_that_count(tmp_path: Path) -> None:
    (path,) = write(tmp_path, examples=20)
    assert validate_shard(path, max_sequence_length=LENGTH, vocab_size=VOCAB) == 20 * (LENGTH - 1)


def test_validation_sees_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_VALIDATION_BYTES", 3 * 3 * LENGTH * 4)
    (path,) = write(tmp_path, examples=20)
    assert validate_shard(path, max_sequence_length=LENGTH, vocab_size=20) == 20 * (LENGTH - 1)
    with pytest.raises(InvalidDataError, match="expected 0 to 18"):
        validate_shard(path, max_sequence_length=LENGTH, vocab_size=19)


def alter(change: Callable[[np.ndarray], None]) -> Callable[[h5py.File], None]:
    def apply(file: h5py.File) -> None:
        block = file["data"][:]
        change(block)
        file["data"][:] = block

    return apply


def replace(dtype: str, shape: tuple[int, ...]) -> Callable[[h5py.File], None]:
    def apply(file: h5py.File) -> None:
        del file["data"]
        file.create_dataset("data", shape=shape, dtype=dtype)

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (alter(lambda b: b.__setitem__((3, 0, 2), VOCAB)), "input_ids in dataset 'data': expected 0 to 99, found"),
        (alter(lambda b: b.__setitem__((3, 2, 2), -1)), "labels in dataset 'data'"),
        (alter(lambda b: b.__setitem__((3, 1, 2), 2)), r"mask in dataset 'data': expected 0 and 1, found \[0, 1, 2\]"),
        (lambda file: file.attrs.__setitem__("n_examples", 4), "attribute 'n_examples': expected 5, found 4"),
        (lambda file: file.attrs.__delitem__("n_examples"), "attribute 'n_examples': expected 5, found none"),
        (lambda file: file.move("data", "text"), r"dataset 'data': expected a dataset, found only \['text'\]"),
        (replace("<i8", (5, 3, LENGTH)), "type of dataset 'data': expected int32, found int64"),
        (replace("<f4", (5, 3, LENGTH)), "type of dataset 'data': expected integers, found float32"),
        (replace("<i4", (5, 5, LENGTH)), r"shape of dataset 'data': expected \(examples, 3, length\), found \(5, 5, 8"),
        (replace("<i4", (5, 3, 9)), r"shape of dataset 'data': expected \(5, 3, 8\), found \(5, 3, 9\)"),
    ],
)
def test_validation_names_file_expected_and_found(
    tmp_path: Path, damage: Callable[[h5py.File], None], said: str
) -> None:
    (path,) = write(tmp_path, examples=5)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InvalidDataError, match=said) as caught:
        validate_shard(path, max_sequence_length=LENGTH, vocab_size=VOCAB)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_hdf5_is_named(tmp_path: Path) -> None:
    path = tmp_path / "examples_0_0.h5"
    path.write_bytes(b"not hdf5")
    with pytest.raises(InvalidDataError, match="cannot be read as HDF5") as caught:
        read_shard_info(path)
    assert caught.value.value == str(path)


def test_damaged_chunks_are_data_errors_for_every_reader(tmp_path: Path) -> None:
    (path,) = write(tmp_path, examples=300)
    with h5py.File(path) as file:
        chunk = file["data"].id.get_chunk_info(150)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    with pytest.raises(InvalidDataError, match="cannot be read"):
        validate_shard(path, max_sequence_length=LENGTH, vocab_size=VOCAB)
    with pytest.raises(InvalidDataError, match="cannot be read"):
        read_rows(path, [150])
    assert read_rows(path, [149])[0, 0, 0] == 49


def test_rows_come_in_the_order_asked_for_with_repetitions(tmp_path: Path) -> None:
    (path,) = write(tmp_path, examples=20)
    rows = [5, 19, 0, 5, 6, 7, 0]
    np.testing.assert_array_equal(read_rows(path, rows), windows(20)[rows])


def test_a_dataset_numbers_rows_over_all_files(tmp_path: Path) -> None:
    write(tmp_path, examples=45, per_file=4)  # twelve files: 10 sorts before 2 by spelling
    with Dataset(tmp_path) as dataset:
        assert (len(dataset), dataset.max_sequence_length) == (45, LENGTH)
        rows = np.random.default_rng(1).permutation(45)
        np.testing.assert_array_equal(dataset.rows(rows), windows(45)[rows])
        assert dataset.rows([3]).dtype == np.int32
        assert dataset.rows([]).shape == (0, 3, LENGTH)


@pytest.mark.parametrize("row", [-1, 45])
def test_rows_outside_of_a_dataset_are_index_errors(tmp_path: Path, row: int) -> None:
    write(tmp_path, examples=45, per_file=4)
    with Dataset(tmp_path) as dataset, pytest.raises(IndexError, match=f"row {row} of 45"):
        dataset.rows([0, row])


def test_a_dataset_keeps_few_files_open_and_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_reader, "_MAX_OPEN_FILES", 3)
    write(tmp_path, examples=20, per_file=2)
    with Dataset(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset.rows(range(20)), windows(20))
        assert len(dataset._files._open) == 3
    assert not dataset._files._open


def test_files_of_different_lengths_are_not_one_dataset(tmp_path: Path) -> None:
    write(tmp_path, examples=2)
    with h5py.File(tmp_path / "examples_1_0.h5", "w") as file:
        file["data"] = np.zeros((2, 3, LENGTH + 1), dtype=np.int32)
    with pytest.raises(InvalidDataError, match="expected 8, found 9"):
        Dataset(tmp_path)


def test_integers_of_other_tools_are_read_as_int32(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "output_chunk_0_0.h5", "w") as file:
        file["data"] = windows(4).astype(np.uint16)
    with Dataset(tmp_path) as dataset:
        rows = dataset.rows([2, 1])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, windows(4)[[2, 1]])
