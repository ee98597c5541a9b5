"""Safetensors files: every type bit for bit, and headers that lie are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from container_files import assert_refused, opened_or_refused, same
from safetensors.torch import save_file

from regraft_worker.conversion.containers import open_container

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
OTHER = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}


def written(path: Path, header: object, data: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_every_type(tmp_path: Path) -> None:
    dtypes = (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
    tensors = {str(dtype): torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype) for dtype in dtypes}
    tensors |= {"number": torch.tensor(1.5), "nothing": torch.empty(0, 3)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    with open_container(tmp_path / "a.safetensors") as container:
        assert (container.encoding, container.values, container.aliases) == ("safetensors", {}, {})
        assert container.tensors.keys() == tensors.keys()
        assert [name for name, tensor in tensors.items() if not same(container.tensors[name], tensor)] == []
        assert not same(container.tensors["torch.float32"], tensors["torch.float32"] + 1)


def test_values_that_lie_at_odd_bytes(tmp_path: Path) -> None:
    header = {
        "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "wide": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    data = b"\x05" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    with open_container(written(tmp_path / "a.safetensors", header, data)) as container:
        assert same(container.tensors["wide"], torch.tensor([1.5, -2.0]))


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        ({"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, "inside another tensor"),
        ({"a": ENTRY, "b": ENTRY}, "inside another tensor"),
        ({"a": OTHER}, "bytes 0 to 8 before 'a' belong to no tensor"),
        ({"a": ENTRY}, "the tensors end at byte 8 of 16"),
        ({"a": ENTRY, "b": OTHER | {"data_offsets": [12, 20]}}, "ends at byte 20 of 16"),
        ({"a": ENTRY | {"shape": [2**40, 2**40]}}, "needs"),
        ({"a": ENTRY | {"shape": [-2]}}, "is not a list of sizes"),
        (b'{"a": 1, "a": 2}', "the key 'a' is in its header twice"),
        (b"{" * 100_000, "is not JSON"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object, cause: str) -> None:
    assert_refused(written(tmp_path / "a.safetensors", header), "unreadable_checkpoint", cause)


def test_types_that_are_not_read(tmp_path: Path) -> None:
    header: dict[str, Any] = {"a": ENTRY | {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}}
    assert_refused(written(tmp_path / "a.safetensors", header), "unsupported_checkpoint", "stored as F8_E4M3")


def test_an_absurd_header_length(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {"a": ENTRY, "b": OTHER})
    path.write_bytes(b"\xff" * 7 + b"\x00" + path.read_bytes()[8:])
    assert_refused(path, "unreadable_checkpoint", "announces a header")


def test_a_file_cut_short_or_with_a_flipped_byte(tmp_path: Path) -> None:
    names = [f"layer.{number}.weight" for number in range(800)]
    save_file({name: torch.full((4,), float(number)) for number, name in enumerate(names)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "a.safetensors"
    assert len(whole) > 65 * 1024
    for length in [*range(1024, 65 * 1024, 1024), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert opened_or_refused(path) is None
    for place in range(0, 4096, 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        container = opened_or_refused(path)
        if container is not None:  # the flip is in a name
            assert sum(name not in container.tensors for name in names) <= 1
            container.close()
