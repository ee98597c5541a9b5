"""The header of a safetensors file, honest and hostile."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft.safetensors_header import TensorEntry, read_header


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(folder: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidDataError) as caught:
        read_header(path)
    assert caught.value.reason == "corrupt_safetensors"
    assert caught.value.field == path.name
    assert caught.value.value == str(path)
    assert caught.value.remedy
    return caught.value.message


def test_lists_every_tensor_in_the_order_of_the_header(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry([2, 2], 4, 20),
        "a": entry([], 0, 4),
        "empty": entry([0, 3], 20, 20, "BF16"),
    }
    found = read_header(write(tmp_path, header, bytes(20)))
    assert list(found) == ["b", "a", "empty"]
    assert found["b"] == TensorEntry("F32", (2, 2), 4, 20)
    assert found["a"].shape == ()
    assert found["empty"] == ("BF16", (0, 3), 20, 20)


def test_padding_after_the_json_is_allowed(tmp_path: Path) -> None:
    assert set(read_header(write(tmp_path, b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', b"x"))) == {"a"}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it has 0 bytes"),
        (b"1234567", "it has 7 bytes"),
        (struct.pack("<Q", 100) + b"{}", "a header of 100 bytes and has 2 left"),
        (struct.pack("<Q", 100_000_001) + b"{}", "more than 100000000"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "more than 100000000"),
        (struct.pack("<Q", 0), "not JSON"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "not JSON"),
    ],
)
def test_files_without_a_whole_header_are_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert cause in refusal(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("header", "data", "cause"),
    [
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12, "inside another tensor that ends at 8"),
        ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8, "inside another tensor"),
        ({"a": entry([2], 0, 8), "b": entry([1], 12, 16)}, 16, "bytes 8 to 12 before 'b' belong to no tensor"),
        ({"a": entry([2], 4, 12)}, 12, "bytes 0 to 4 before 'a' belong to no tensor"),
        ({"a": entry([2], 0, 8)}, 4, "'a' ends at byte 8 of 4"),
        ({"a": entry([2], 0, 8)}, 9, "the tensors end at byte 8 of 9"),
        ({}, 1, "the tensors end at byte 0 of 1"),
        ({"a": entry([3], 0, 8)}, 8, "needs 12 bytes and is given 8"),
        ({"a": entry([2], 0, 8, "F16")}, 8, "needs 4 bytes and is given 8"),
        ({"a": entry([1], 0, 4, "F99")}, 4, "unknown dtype 'F99'"),
        ({"a": entry([-1], 0, 4)}, 4, "not a list of sizes"),
        ({"a": entry([True], 0, 4)}, 4, "not a list of sizes"),
        ({"a": entry([1.0], 0, 4)}, 4, "not a list of sizes"),  # type: ignore[list-item]
        ({"a": entry([1], 4, 0)}, 4, "not a begin and an end"),
        ({"a": entry([1], -4, 0)}, 4, "not a begin and an end"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, 4, "not a begin and an end"),
        ({"a": {"dtype": "F32", "shape": [1]}}, 4, "must have dtype, shape and data_offsets"),
        ({"a": [1]}, 4, "must have dtype, shape and data_offsets"),
        ({"__metadata__": {"format": 1}}, 0, "not an object of strings"),
        ({"__metadata__": "pt"}, 0, "not an object of strings"),
    ],
)
def test_headers_that_do_not_describe_the_data_are_refused(
    tmp_path: Path, header: dict[str, object], data: int, cause: str
) -> None:
    assert cause in refusal(write(tmp_path, header, bytes(data)))


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    one = '"a":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    text = "{" + one % (0, 1) + "," + one % (1, 2) + "}"
    assert "the key 'a' is in its header twice" in refusal(write(tmp_path, text.encode(), b"xy"))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_a_refusal_or_a_header_that_covers_them(tmp_path_factory, content: bytes) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    try:
        found = read_header(path)
    except InvalidDataError as error:
        assert error.reason == "corrupt_safetensors"
    else:
        assert all(entry.end == entry.begin for entry in found.values())  # there are no data bytes
