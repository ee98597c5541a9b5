"""HDF5 checkpoints of every format, written as those releases write them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import hdf5plugin
import numpy as np
import pytest
import torch
from container_files import assert_refused, hdf5, same

from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.containers._chunks import Chunked
from regraft_worker.conversion.containers.base import Opaque

VALUES = np.random.default_rng(3).standard_normal((300, 50)).astype("f4")


def put(file: h5py.File, name: str, content: object = None, **attributes: object) -> h5py.Dataset:
    dataset = file.create_dataset(name, data=h5py.Empty("f4") if content is None else content)
    dataset.attrs.update(attributes)
    return dataset


def put_json(file: h5py.File, name: str, **entry: object) -> None:
    key = f"{name}.__metadata__"
    file.attrs[key] = json.dumps({"__spec__": [{name: "*"}, "x"], "__objects__": [name], key: entry})


def bfloat16(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.bfloat16().view(torch.int16).numpy()


def test_format_0_4(tmp_path: Path) -> None:
    halves = torch.randn(3, 5)
    with hdf5(tmp_path / "a.mdl", 0.4) as file:
        file.attrs["__spec__"] = b"cos\nsystem\n(Vtouch here\ntR.".hex()
        lz4 = file.create_dataset(quote("model.a/b%.weight", safe=""), data=VALUES, chunks=(7, 11), **hdf5plugin.LZ4())
        lz4.attrs.update({"__H5_TYPE__": "TorchTensorH5Type", "is_bfloat16": False})
        put(file, "model.half", bfloat16(halves), __H5_TYPE__="TorchTensorH5Type", is_bfloat16=True)
        put(file, "array", np.arange(5), __H5_TYPE__="NumpyArrayH5Type")
        put(file, "global_step", 7, __H5_TYPE__="ScalarH5Type")
        put(file, "optimizer.param_groups.0.lr", 0.5, __H5_TYPE__="ScalarH5Type")
        put(file, "flag", True, __H5_TYPE__="ScalarH5Type")
        put(file, "name", __H5_TYPE__="StringH5Type", string_value="text")
        put(file, "nothing", __H5_TYPE__="NoneH5Type")
        put(file, "object", __H5_TYPE__="ObjectH5Type", object_value="80049500")
        put(file, "other", __H5_TYPE__="LaterH5Type")
        put(file, "zeros", is_constructible=True, shape=(4, 3), fill_value=2.0, __H5_TYPE__="TorchTensorH5Type")
    with open_container(tmp_path / "a.mdl") as container:
        assert container.encoding == "hdf5-0.4"
        assert container.tensors.keys() == {"model.a/b%.weight", "model.half", "array", "zeros"}
        assert same(container.tensors["model.a/b%.weight"], torch.from_numpy(VALUES))
        assert same(container.tensors["model.half"], halves.bfloat16())
        assert same(container.tensors["array"], torch.arange(5))
        assert same(container.tensors["zeros"], torch.full((4, 3), 2.0))
        assert container.values == {
            "global_step": 7,
            "optimizer.param_groups.0.lr": 0.5,
            "flag": True,
            "name": "text",
            "nothing": None,
            "object": Opaque("a pickled object"),
            "other": Opaque("LaterH5Type"),
        }


@pytest.mark.parametrize("version", [None, 0.2, 0.3])
def test_formats_to_0_3(tmp_path: Path, version: float | None) -> None:
    halves = torch.randn(3, 5)
    with hdf5(tmp_path / "a.mdl", version) as file:
        put(file, "model.weight", VALUES)
        put(file, "model.half", bfloat16(halves), is_bfloat16=True)
        put(file, "step", 3, is_scalar=True)
        put(file, "none", is_none=True)
        put(file, "text", is_string=True, string_val="abc")
        put(file, "object", object_value="80049500")
        put(file, "ones", is_constructible=True, shape=(2,), fill_value=1, dtype="torch.int64")
        file["tied"] = file["model.weight"]
        file["soft"] = h5py.SoftLink("/model.weight")
    with open_container(tmp_path / "a.mdl") as container:
        assert container.encoding == f"hdf5-{version or 0.1}"
        assert container.values == {"step": 3, "none": None, "text": "abc", "object": Opaque("a pickled object")}
        assert same(container.tensors["model.half"], halves.bfloat16())
        assert same(container.tensors["ones"], torch.ones(2, dtype=torch.int64))
        assert container.aliases == {"tied": "model.weight", "soft": "model.weight"}
        for name in ("model.weight", "tied", "soft"):
            assert same(container.tensors[name], torch.from_numpy(VALUES))


def test_format_0_5(tmp_path: Path) -> None:
    halves = torch.randn(3, 5)
    with hdf5(tmp_path / "a.mdl") as file:
        file.attrs["__spec__"] = json.dumps([{"model": {"a%2Fb": "*"}}, "[1, {}]"])
        tensor = {"__TYPE__": "TorchTensorSerializer", "__TORCH__": True, "__NUMPY__": True}
        put(file, "model.a%2Fb", VALUES, dtypes=["torch.float32"], shapes=[[300, 50]], rtfx_dtypes=[11], **tensor)
        put(file, "half", bfloat16(halves), dtypes=["torch.bfloat16"], shapes=[[3, 5]], rtfx_dtypes=[15], **tensor)
        put_json(file, "model.a%2Fb", **tensor)
        put_json(file, "half", **tensor)
        put_json(file, "tied", key="second", __LINKED__=True, __TYPE__="LinkedObject")
        put_json(file, "second", key="half", __LINKED__=True, __TYPE__="LinkedObject")
        put_json(file, "optimizer.lr", scalar_value=0.1, __TYPE__="ScalarSerializer", __NONE__=True)
        put_json(file, "global_step", key="steps", __LINKED__=True, __TYPE__="LinkedObject")
        put_json(file, "steps", scalar_value=20, __TYPE__="ScalarSerializer")
        put_json(file, "name", string_value="text", __TYPE__="StringSerializer")
        put_json(file, "none", __TYPE__="NoneSerializer")
        put_json(file, "object", object_value="8004", __TYPE__="ObjectSerializer")
    with open_container(tmp_path / "a.mdl") as container:
        assert container.encoding == "hdf5-0.5"
        assert same(container.tensors["model.a%2Fb"], torch.from_numpy(VALUES))
        assert same(container.tensors["half"], halves.bfloat16())
        assert same(container.tensors["tied"], halves.bfloat16())
        assert container.aliases == {"tied": "half", "second": "half"}
        assert container.values == {
            "optimizer.lr": 0.1,
            "steps": 20,
            "global_step": 20,
            "name": "text",
            "none": None,
            "object": Opaque("ObjectSerializer"),
        }


def test_types_in_all_chunks(tmp_path: Path) -> None:
    expected: dict[str, np.ndarray[Any, Any]] = {}
    with hdf5(tmp_path / "a.mdl") as file:
        for dtype in ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"):
            values = (VALUES[:20] * 100 > 0 if dtype == "?" else VALUES[:20] * 30).astype(dtype)
            expected |= {f"{dtype} whole": values, f"{dtype} number": values[0, 0], f"{dtype} nothing": values[:0]}
            for name in (f"{dtype} whole", f"{dtype} number", f"{dtype} nothing"):
                file.create_dataset(name, data=expected[name])
            for chunks in ((7, 50), (20, 50), (7, 11), (5, 1), (19, 49)):
                for packing in ({}, {"compression": "gzip"}, hdf5plugin.LZ4()):
                    name = f"{dtype} {chunks} {dict(packing)}".replace("/", "")
                    expected[name] = values
                    file.create_dataset(name, data=values, chunks=chunks, **packing)
    with open_container(tmp_path / "a.mdl") as container:
        assert len(container.tensors) == len(expected) == 9 * 18
        wrong = [
            name
            for name, values in expected.items()
            if not same(container.tensors[name], torch.from_numpy(np.array(values)))
        ]
        assert wrong == []


@pytest.mark.parametrize(
    "packing",
    [
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"shuffle": True},
        {"fletcher32": True},
        {"compression": "gzip", "compression_opts": 9},
        {**hdf5plugin.LZ4(), "shuffle": True},
        {**hdf5plugin.LZ4(), "fletcher32": True},
        dict(hdf5plugin.LZ4(nbytes=2048)),
    ],
)
def test_filters(tmp_path: Path, packing: dict[str, Any]) -> None:
    values = np.round(VALUES)
    random = np.random.default_rng(1).integers(0, 2**62, (40, 30))
    with hdf5(tmp_path / "a.mdl") as file:
        file.create_dataset("a", data=values, chunks=(64, 50), **packing)
        file.create_dataset("b", data=random, chunks=(11, 7), **packing)
        file.create_dataset("c", data=np.arange(1001, dtype="i2"), chunks=(101,), **packing)
    with open_container(tmp_path / "a.mdl") as container:
        assert same(container.tensors["a"], torch.from_numpy(values))
        assert same(container.tensors["b"], torch.from_numpy(random))
        assert not same(container.tensors["b"], torch.from_numpy(random + 1))


def test_chunks_in_any_order_of_rows_and_threads(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        file.create_dataset("a", data=VALUES, chunks=(7, 11), **hdf5plugin.LZ4())
    expected = torch.from_numpy(VALUES)
    with open_container(tmp_path / "a.mdl") as container:
        read = container.tensors["a"].read_rows
        for start, stop in ((0, 300), (3, 10), (10, 12), (12, 12), (12, 40), (299, 300), (40, 41), (41, 300), (5, 6)):
            assert torch.equal(read(start, stop), expected[start:stop])
        with pytest.raises(IndexError):
            read(0, 301)


def test_threads_that_read_by_turns_unpack_each_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        for name in "ab":
            file.create_dataset(name, data=VALUES, chunks=(64, 50), **hdf5plugin.LZ4())
    unpacked, real = [], Chunked._unpacked

    def counted(chunked: Chunked, number: int) -> Any:
        unpacked.append(number)
        return real(chunked, number)

    monkeypatch.setattr(Chunked, "_unpacked", counted)
    with open_container(tmp_path / "a.mdl") as container, ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for start in range(0, 300, 10):
            for pool, name in ((one, "a"), (other, "b")):
                rows = pool.submit(container.tensors[name].read_rows, start, start + 10).result()
                assert torch.equal(rows, torch.from_numpy(VALUES[start : start + 10]))
    assert sorted(unpacked) == sorted([*range(5), *range(5)])


def test_chunks_whose_filter_was_skipped(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        dataset = file.create_dataset("a", shape=(300, 50), dtype="f4", chunks=(300, 50), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), VALUES.tobytes(), filter_mask=1)
    with open_container(tmp_path / "a.mdl") as container:
        assert same(container.tensors["a"], torch.from_numpy(VALUES))


def test_values_in_the_header(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, space, plist).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 3], dtype="f4")
        )
    with open_container(tmp_path / "a.mdl") as container:
        assert same(container.tensors["a"], torch.tensor([1.0, 2.0, 3.0]))


def test_names_in_groups(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        put(file, "model/layers/weight", VALUES)
    with open_container(tmp_path / "a.mdl") as container:
        assert same(container.tensors["model/layers/weight"], torch.from_numpy(VALUES))


def test_what_is_not_finished_or_not_known(tmp_path: Path) -> None:
    hdf5(tmp_path / "a.mdl", finished=False).close()
    assert_refused(tmp_path / "a.mdl", "unreadable_checkpoint", "it was never finished (no __SUCCESS__)")
    hdf5(tmp_path / "b.mdl", 0.6).close()
    assert_refused(tmp_path / "b.mdl", "unsupported_checkpoint", "it is of the version '0.6'")


@pytest.mark.parametrize(
    ("content", "attributes", "reason", "cause"),
    [
        (np.ones(2, ">f4"), {}, "unsupported", "is not read"),
        (np.ones(2, "c8"), {}, "unsupported", "is not read"),
        (np.array([b"ab"]), {}, "unsupported", "is not read"),
        (np.ones(2, "f4"), {"compressed": True}, "unsupported", "packed in a way of its own"),
        (np.ones(2, "f4"), {"dtypes": ["torch.float16"]}, "unsupported", "stored as float32"),
        (np.ones(2, "f4"), {"rtfx_dtypes": [15]}, "unreadable", "called bfloat16 and stored as float32"),
        (np.ones(2, "f4"), {"shapes": [[3]]}, "unreadable", "says it has the shape"),
        (np.ones(2, "f4"), {"filepath": "/etc/passwd"}, "unsafe", "are in another file"),
        (np.ones(2, "f4"), {"__TYPE__": "ScalarH5Type"}, "unsupported", "is called a scalar"),
        (None, {}, "unreadable", "has no shape"),
        (None, {"is_constructible": True, "shape": [-1], "fill_value": 0}, "unreadable", "no shape, value or type"),
        (None, {"is_constructible": True, "shape": [3], "fill_value": "x"}, "unreadable", "no shape, value or type"),
        (None, {"is_constructible": True, "shape": [2**50], "fill_value": 0}, "unsafe", "constant tensors"),
    ],
)
def test_tensors_that_are_not_read(
    tmp_path: Path, content: object, attributes: dict[str, object], reason: str, cause: str
) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        put(file, "weight", content, **attributes)
    assert_refused(tmp_path / "a.mdl", f"{reason}_checkpoint", cause)


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ({"__TYPE__": "TorchTensorSerializer", "__TORCH__": True}, "its tensor 'a' is missing"),
        ({"__TYPE__": "ScalarSerializer", "scalar_value": [1]}, "its number 'a' is [1]"),
        ({"__TYPE__": "StringSerializer"}, "its leaf 'a' is no text"),
        ({"__TYPE__": "LinkedObject", "key": 3}, "its leaf 'a' is no text"),
        ({"__TYPE__": "LinkedObject", "key": "b"}, "leads to 'b', which is not there"),
        ({"__TYPE__": "LinkedObject", "key": "a"}, "leads back to itself"),
    ],
)
def test_leaves_that_are_not_what_they_say(tmp_path: Path, entry: dict[str, object], cause: str) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        put_json(file, "a", **entry)
    assert_refused(tmp_path / "a.mdl", "unreadable_checkpoint", cause)


def test_links_that_go_in_a_circle(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        for number in range(100):
            put_json(file, f"{number}", key=f"{(number + 1) % 100}", __LINKED__=True, __TYPE__="LinkedObject")
    assert_refused(tmp_path / "a.mdl", "unreadable_checkpoint", "leads back to itself")
