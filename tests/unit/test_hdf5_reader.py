"""Reading data files of every tool: names, layouts, chunks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from regraft import hdf5
from regraft.errors import InvalidDataError
from regraft.hdf5 import Dataset, read_rows

LENGTH = 8


def windows(count: int, *, start: int = 0, rows: int = 3) -> np.ndarray:
    """No two values are equal."""
    size = rows * LENGTH
    return np.arange(start * size, (start + count) * size, dtype=np.int32).reshape(count, rows, LENGTH)


GENERATIONS = {
    "hdf5 tool": ["examples_0_0.h5", "examples_0_1.h5", "examples_2_0.h5", "examples_10_0.h5"],
    "preprocessing tool": ["output_chunk_0_0.h5", "output_chunk_0_2.h5", "output_chunk_0_10.h5", "output_chunk_1_0.h5"],
    "shuffler": ["data-00000.h5", "data-00001.h5", "data-00010.h5", "data-00100.h5"],
}


def put(folder: Path, name: str, data: np.ndarray, **options: Any) -> None:
    """A file as some other tool may write it."""
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / name, "w") as file:
        file.create_dataset("data", data=data, **options)


@pytest.mark.parametrize("tool", GENERATIONS)
def test_folders_of_every_reference_tool_are_read_in_the_order_of_their_numbers(tmp_path: Path, tool: str) -> None:
    for number, name in reversed(list(enumerate(GENERATIONS[tool]))):
        put(tmp_path, name, windows(5, start=5 * number))
    (tmp_path / "checkpoint_process_0.txt").write_text("1, 2, 3")
    with Dataset(tmp_path) as dataset:
        assert [shard.path.name for shard in dataset.shards] == GENERATIONS[tool]
        np.testing.assert_array_equal(dataset.rows(range(20)), windows(20))


@pytest.mark.parametrize("chunks", [(1, 3, LENGTH), (7, 3, LENGTH), (64, 3, LENGTH), (4, 1, 5), None])
def test_windows_are_read_from_chunks_of_any_shape(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    for number in range(2):
        options = {} if chunks is None else {"chunks": chunks, "maxshape": (None, None, None), "compression": "gzip"}
        put(tmp_path, f"examples_{number}_0.h5", windows(20, start=20 * number), **options)
    rows = np.random.default_rng(2).integers(0, 40, 60)
    with Dataset(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset.rows(rows), windows(40)[rows])


def test_a_dataset_is_map_style(tmp_path: Path) -> None:
    put(tmp_path, "examples_0_0.h5", windows(5))
    with Dataset(tmp_path) as dataset:
        np.testing.assert_array_equal(np.stack(list(dataset)), windows(5))
        assert dataset[4].shape == (3, LENGTH)
        with pytest.raises(IndexError):
            dataset[5]


def test_neighbouring_rows_are_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        put(tmp_path, f"examples_{number}_0.h5", windows(10, start=10 * number))
    with Dataset(tmp_path) as dataset:
        reads, read = [], dataset._files._read
        monkeypatch.setattr(dataset._files, "_read", lambda *a: (reads.append(a), read(*a))[1])
        dataset.rows([3, 17, 2, 9, 10, 4, 3])
    assert reads == [(0, slice(2, 5)), (0, slice(9, 10)), (1, slice(0, 1)), (1, slice(7, 8))]


def test_windows_with_document_boundaries_keep_all_rows(tmp_path: Path) -> None:
    put(tmp_path, "examples_0_0.h5", windows(6, rows=5))
    with Dataset(tmp_path) as dataset:
        assert dataset.features == hdf5.SPAN_FEATURES
        np.testing.assert_array_equal(dataset.rows([4, 1]), windows(6, rows=5)[[4, 1]])
    np.testing.assert_array_equal(read_rows(tmp_path / "examples_0_0.h5", [4, 1]), windows(6, rows=5)[[4, 1]])


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (4, 2, 0, 1, 3), (0, 1, 2)])
def test_rows_in_another_order_on_disk_come_in_the_usual_one(tmp_path: Path, order: tuple[int, ...]) -> None:
    block = windows(6, rows=len(order))
    put(tmp_path, "output_chunk_0_0.h5", block[:, list(order)])
    listed = [hdf5.SPAN_FEATURES[row] for row in order]
    (tmp_path / "data_params.json").write_text(json.dumps({"features": listed}))
    with Dataset(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset.rows(range(6)), block)
    (tmp_path / "data_params.json").write_text("{}")  # the planted error: nobody says so
    with Dataset(tmp_path) as dataset:
        assert np.array_equal(dataset.rows(range(6)), block) == (order == (0, 1, 2))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"features": ["input_ids", "labels"]}', "expected input_ids, attention_mask, labels in some order"),
        ('{"features": ["input_ids", "attention_mask", "attention_mask"]}', "in some order"),
        ('{"features": [0, 1, 2]}', "in some order"),
        ("{", "content: expected JSON"),
    ],
)
def test_features_that_are_not_understood_are_refused(tmp_path: Path, content: str, said: str) -> None:
    put(tmp_path, "examples_0_0.h5", windows(2))
    (tmp_path / "data_params.json").write_text(content)
    with pytest.raises(InvalidDataError, match=said) as caught:
        Dataset(tmp_path)
    assert caught.value.value == str(tmp_path / "data_params.json")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (windows(2).astype(np.int64), "type of dataset 'data', as in examples_0_0.h5: expected int32, found int64"),
        (windows(2, rows=5), "rows of a window, as in examples_0_0.h5: expected 3, found 5"),
        (np.zeros((2, 3, LENGTH + 1), dtype=np.int32), "max sequence length, .*: expected 8, found 9"),
        (np.zeros(30, dtype=np.int32), "rows of a window, as in examples_0_0.h5: expected 3, found 0"),
        (np.zeros((2, 4, LENGTH), dtype=np.int32), r"\(examples, 5, length\) or \(tokens,\), found \(2, 4, 8\)"),
        (np.zeros((2, 0, LENGTH), dtype=np.int32), r"found \(2, 0, 8\)"),
    ],
)
def test_files_that_differ_are_not_one_dataset(tmp_path: Path, other: np.ndarray, said: str) -> None:
    put(tmp_path, "examples_0_0.h5", windows(2))
    put(tmp_path, "examples_1_0.h5", other)
    with pytest.raises(ValueError, match=said) as caught:
        Dataset(tmp_path)
    assert isinstance(caught.value, InvalidDataError)
    assert caught.value.value == str(tmp_path / "examples_1_0.h5")


def stream(folder: Path, *sizes: int) -> list[int]:
    """Files of tokens; all of them, as they follow one another."""
    tokens = np.random.default_rng(len(sizes)).integers(0, 50_000, sum(sizes)).astype(np.uint16)
    for number, part in enumerate(np.split(tokens, np.cumsum(sizes)[:-1])):
        put(folder, f"data-{number:05d}.h5", part)
    return [int(token) for token in tokens]


def cut_one_by_one(tokens: list[int], *, step: int = LENGTH) -> list[list[list[int]]]:
    """The definition, for one window after the other."""
    found = []
    for start in range(0, len(tokens) - LENGTH, step):
        piece = tokens[start : start + LENGTH + 1]
        found.append([piece[:-1], [1] * LENGTH, piece[1:]])
    return found


@pytest.mark.parametrize("sizes", [(100,), (8 * LENGTH + 1,), (8 * LENGTH,), (37, 3, 41, 1, 60), (5, 4), (LENGTH + 1,)])
def test_a_token_stream_is_cut_into_windows_over_all_files(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    tokens = stream(tmp_path, *sizes)
    expected = cut_one_by_one(tokens)
    with Dataset(tmp_path, max_sequence_length=LENGTH) as dataset:
        assert len(dataset) == len(expected) == (sum(sizes) - 1) // LENGTH
        assert (dataset.features, dataset.max_sequence_length) == (hdf5.FEATURES, LENGTH)
        rows = np.random.default_rng(1).permutation(np.repeat(np.arange(len(expected)), 2))
        found = dataset.rows(rows)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.array(expected)[rows])
    wrong = cut_one_by_one(tokens, step=LENGTH + 1)  # the planted error: windows that share no token
    assert len(expected) == 1 or not np.array_equal(np.array(wrong[1]), np.array(expected[1]))


def test_a_stream_needs_to_be_told_its_length(tmp_path: Path) -> None:
    stream(tmp_path, 40)
    with pytest.raises(InvalidDataError, match=r"training\.max_sequence_length"):
        Dataset(tmp_path)
    with pytest.raises(InvalidDataError, match="expected windows"):
        read_rows(tmp_path / "data-00000.h5", [0])


@pytest.mark.parametrize("size", [0, 1, LENGTH])
def test_a_stream_shorter_than_a_window_has_none(tmp_path: Path, size: int) -> None:
    stream(tmp_path, size)
    with Dataset(tmp_path, max_sequence_length=LENGTH) as dataset:
        assert len(dataset) == 0
        assert dataset.rows([]).shape == (0, 3, LENGTH)


def test_windows_keep_their_own_length(tmp_path: Path) -> None:
    put(tmp_path, "data-00000.h5", windows(3))
    with Dataset(tmp_path, max_sequence_length=LENGTH + 1) as dataset:
        assert dataset.max_sequence_length == LENGTH
