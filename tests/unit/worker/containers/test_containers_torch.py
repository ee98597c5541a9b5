"""What torch.save writes, read back bit for bit in both of its encodings."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from container_files import Call, assert_refused, pickled, rebuilt, same, storage, torch_tree, torch_zip

from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.containers.base import Opaque

BOTH = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found: dict[str, Any] = {}
    for key, value in items:
        nested = isinstance(value, dict | list | tuple)
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


@BOTH
@pytest.mark.parametrize("protocol", [2, 4])
def test_everything_a_checkpoint_may_have(tmp_path: Path, new: bool, protocol: int) -> None:
    tree = torch_tree()
    path = tmp_path / "a.mdl"
    torch.save(tree, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    expected = flat(tree)
    with open_container(path) as container:
        assert container.encoding == ("torch-zip" if new else "torch-legacy")
        tensors = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
        assert container.tensors.keys() == tensors.keys()
        assert [name for name, value in tensors.items() if not same(container.tensors[name], value.detach())] == []
        values = {name: value for name, value in expected.items() if name not in tensors}
        assert container.values == values | {
            "device": "cpu",
            "dtype": "torch.bfloat16",
            "seed": Opaque("2 bytes"),
        }
        assert container.aliases == {"model.tied.weight": "model.lm_head.weight"}


@BOTH
def test_a_changed_value_is_noticed(tmp_path: Path, new: bool) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": tensor}, tmp_path / "a.bin", _use_new_zipfile_serialization=new)
    with open_container(tmp_path / "a.bin") as container:
        assert same(container.tensors["a"], tensor)
        tensor[2, 3] += 1
        assert not same(container.tensors["a"], tensor)


def test_ordered_dictionaries_with_versions_as_state_dicts_are(tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    assert state._metadata
    torch.save(state, tmp_path / "a.bin")
    with open_container(tmp_path / "a.bin") as container:
        assert list(container.tensors) == ["weight", "bias"]
        assert same(container.tensors["bias"], state["bias"])


def test_big_endian_values(tmp_path: Path) -> None:
    values = np.arange(12, dtype=">f4").reshape(3, 4)
    content = pickled({"a": rebuilt(storage(numel=12), 0, (3, 4), (4, 1), False, {})})
    turned = pickled({"a": rebuilt(storage(numel=12), 0, (4, 3), (1, 4), False, {})})
    for number, (tree, expected) in enumerate(((content, values), (turned, values.T))):
        path = torch_zip(tmp_path / f"{number}.mdl", tree, storages={"0": values.tobytes()}, order=b"big")
        with open_container(path) as container:
            assert same(container.tensors["a"], torch.from_numpy(expected.astype("<f4")))
    path = torch_zip(tmp_path / "c.mdl", content, storages={"0": values.tobytes()}, order=b"middle")
    assert_refused(path, "unreadable_checkpoint", "its byte order is b'middle'")


def test_values_that_lie_at_odd_bytes(tmp_path: Path) -> None:
    values = np.arange(12, dtype="<f4").reshape(3, 4)
    seen = set()
    for length in range(4):
        content = pickled({"x" * length: 0, "a": rebuilt(storage(numel=12), 0, (3, 4), (4, 1), False, {})})
        path = torch_zip(tmp_path / "a.mdl", content, storages={"0": values.tobytes()})
        seen.add(path.read_bytes().index(values.tobytes()) % 4)
        with open_container(path) as container:
            assert same(container.tensors["a"], torch.from_numpy(values))
    assert seen == {0, 1, 2, 3}


def test_numpy_numbers(tmp_path: Path) -> None:
    tree = {"step": np.int64(7), "loss": np.float32(0.5), "flag": np.bool_(True)}
    for protocol in (2, 4):
        with open_container(torch_zip(tmp_path / "a.mdl", pickle.dumps(tree, protocol))) as container:
            assert container.values == {"step": 7, "loss": 0.5, "flag": True}


def test_a_pair_list_makes_an_ordered_dictionary(tmp_path: Path) -> None:
    import collections

    path = torch_zip(tmp_path / "a.mdl", pickled(Call(collections.OrderedDict, [["a", 1], ["b", None]])))
    with open_container(path) as container:
        assert container.values == {"a": 1, "b": None}


@pytest.mark.parametrize(
    ("tree", "cause"),
    [
        (torch.ones(3), "it holds one tensor"),
        (3, "it holds one int"),
        ({"a.b": 1, "a": {"b": 2}}, "two of its entries are called 'a.b'"),
        ({1: 1, "1": 2}, "two of its entries are called '1'"),
        ({(1, 2): 3}, "a dictionary with a tuple as a key"),
        ({"a": torch.ones(1).expand(1000)}, "repeats the 1 of its storage"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'ComplexFloatStorage'"),
    ],
)
@BOTH
def test_what_is_not_read(tmp_path: Path, tree: object, cause: str, new: bool) -> None:
    torch.save(tree, tmp_path / "a.mdl", _use_new_zipfile_serialization=new)
    assert_refused(tmp_path / "a.mdl", "unsupported_checkpoint", cause)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint", b"\x80\x02}q\x00.", b"\x89HDF" + bytes(50)])
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mdl").write_bytes(content)
    assert_refused(tmp_path / "a.mdl", "unsupported_checkpoint", "its first bytes are those of none")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.mdl", "unreadable_checkpoint", "it is no file")
    (tmp_path / "folder").mkdir()
    assert_refused(tmp_path / "folder", "unreadable_checkpoint", "it is no file")


def test_a_closed_container_gives_no_rows_but_keeps_those_it_gave(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": tensor}, tmp_path / "a.bin")
    with open_container(tmp_path / "a.bin") as container:
        rows = container.tensors["a"].read_rows(1, 3)
    assert torch.equal(rows, tensor[1:])
    with pytest.raises(ValueError, match=r"a\.bin is closed"):
        container.tensors["a"].whole()


def test_rows_out_of_range(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3, 4), "b": torch.ones(3, 4).t()}, tmp_path / "a.bin")
    with open_container(tmp_path / "a.bin") as container:
        for name in "ab":
            assert container.tensors[name].read_rows(1, 1).shape[0] == 0
            for start, stop in ((-1, 1), (0, 5), (2, 1)):
                with pytest.raises(IndexError):
                    container.tensors[name].read_rows(start, stop)


def test_several_threads_read_one_file(tmp_path: Path) -> None:
    tensor = torch.randn(4096, 64)
    torch.save({"a": tensor, "b": tensor.t()}, tmp_path / "a.bin")
    wrong = []

    def read(container: Any, name: str, expected: torch.Tensor) -> None:
        for _ in range(5):
            if not torch.equal(torch.cat(list(container.tensors[name].blocks(50_000))), expected):
                wrong.append(name)

    with open_container(tmp_path / "a.bin") as container:
        threads = [
            threading.Thread(target=read, args=(container, name, expected))
            for name, expected in (("a", tensor), ("a", tensor), ("b", tensor.t()), ("b", tensor.t()))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_pages_are_given_back_while_reading(tmp_path: Path) -> None:
    size = 160 * 2**20
    torch.save({"a": torch.ones(size // 4096, 1024)}, tmp_path / "a.bin")
    with open_container(tmp_path / "a.bin") as container:
        start, most = resident(), 0
        for block in container.tensors["a"].blocks(8 * 2**20):
            assert bool((block == 1).all())
            most = max(most, resident())
    assert most - start < 40 * 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_opening_takes_no_torch_in_the_child(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.bin")
    start = time.perf_counter()
    open_container(tmp_path / "a.bin").close()
    assert time.perf_counter() - start < 5  # importing torch alone takes several seconds on a busy machine
