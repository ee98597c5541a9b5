"""HDF5 files that reach out of themselves, promise what they have not, or are damaged."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import torch
from container_files import assert_refused, hdf5, nothing_left, opened_or_refused, same

from regraft.errors import InvalidDataError
from regraft_worker.conversion.containers import open_container

ONES = np.ones((64, 64), dtype="f4")


def test_links_out_of_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = ONES
    with hdf5(tmp_path / "a.mdl") as file:
        file["weight"] = h5py.ExternalLink("other.h5", "/secret")
    assert_refused(tmp_path / "a.mdl", "unsafe_checkpoint", "its link 'weight' leads to another file")
    with hdf5(tmp_path / "b.mdl") as file:
        file.create_group("group")["out"] = h5py.ExternalLink("other.h5", "/")
        file["weight"] = h5py.SoftLink("/group/out/secret")
    assert_refused(tmp_path / "b.mdl", "unsafe_checkpoint", "leads to another file")


def test_links_to_nothing(tmp_path: Path) -> None:
    for target in ("/missing", "/", "../x"):
        with hdf5(tmp_path / "a.mdl") as file:
            file["weight"] = h5py.SoftLink(target)
        assert_refused(tmp_path / "a.mdl", "unsafe_checkpoint", "which is no tensor of the file")


def test_groups_that_hold_themselves(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        group = file.create_group("a")
        group["b"] = group
    assert_refused(tmp_path / "a.mdl", "unsafe_checkpoint", "a group that is in itself")
    with hdf5(tmp_path / "b.mdl") as file:
        file["root"] = file["/"]
    assert_refused(tmp_path / "b.mdl", "unsafe_checkpoint", "a group that is in itself")
    with hdf5(tmp_path / "c.mdl") as file:
        file.create_group("/".join("abcdefghijklmnop"))
    assert_refused(tmp_path / "c.mdl", "unsafe_checkpoint", "groups are more than 8 deep")


def test_values_of_other_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = ONES
    with hdf5(tmp_path / "a.mdl") as file:
        layout = h5py.VirtualLayout((64, 64), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (64, 64))
        file.create_virtual_dataset("weight", layout)
    assert_refused(tmp_path / "a.mdl", "unsafe_checkpoint", "put together from other datasets")
    (tmp_path / "raw").write_bytes(ONES.tobytes())
    for number, kind in enumerate(("TorchTensorH5Type", "ScalarH5Type")):
        with hdf5(tmp_path / f"{number}.mdl") as file:
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_external(str(tmp_path / "raw").encode(), 0, 4)
            space = h5py.h5s.create_simple((1,)) if number == 0 else h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5d.create(file.id, b"weight", h5py.h5t.IEEE_F32LE, space, plist)
            file["weight"].attrs["__H5_TYPE__"] = kind
        assert_refused(tmp_path / f"{number}.mdl", "unsafe_checkpoint", "in another file")


@pytest.mark.parametrize(
    "packing",
    [
        {"compression": "lzf"},
        {"compression": "szip"} if h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP) else {"scaleoffset": 2},
        dict(hdf5plugin.Zstd()),
        dict(hdf5plugin.Blosc()),
        {"scaleoffset": 2},
    ],
)
def test_filters_that_are_not_known(tmp_path: Path, packing: dict[str, object]) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        file.create_dataset("weight", data=ONES, **packing)
    assert_refused(tmp_path / "a.mdl", "unsupported_checkpoint", "packed with the HDF5 filters")


def test_shapes_that_the_file_cannot_hold(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        file.create_dataset("weight", shape=(2**40, 2**20), dtype="f4")
    assert_refused(tmp_path / "a.mdl", "unreadable_checkpoint", "are not all there")
    with hdf5(tmp_path / "b.mdl") as file:
        file.create_dataset("weight", shape=(2**40, 2**20), dtype="f4", chunks=(64, 64), compression="gzip")
    assert_refused(tmp_path / "b.mdl", "unsafe_checkpoint", "announces")
    with hdf5(tmp_path / "c.mdl") as file:
        file.create_dataset("weight", shape=(6400, 6400), dtype="f4", chunks=(64, 64), **hdf5plugin.LZ4())[:64] = 1
    assert_refused(tmp_path / "c.mdl", "unreadable_checkpoint", "9900 of the 10000 chunks")
    with hdf5(tmp_path / "d.mdl") as file:
        file.create_dataset("weight", shape=(2**15, 2**15), dtype="f4", chunks=(2**14, 2**14))
    assert_refused(tmp_path / "d.mdl", "unsafe_checkpoint", "announces 4 chunks of 1073741824 bytes")


def chunk(path: Path, content: bytes, **packing: object) -> Path:
    """A file with one chunk of 64 x 64 numbers that holds `content`."""
    with hdf5(path) as file:
        dataset = file.create_dataset("weight", ONES.shape, "f4", chunks=ONES.shape, **packing)
        dataset.id.write_direct_chunk((0, 0), content)
    return path


LZ4 = dict(hdf5plugin.LZ4())
SIZE = ONES.nbytes.to_bytes(8, "big")
BLOCK = ONES.nbytes.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("content", "packing"),
    [
        (zlib.compress(bytes(2**25)), {"compression": "gzip"}),
        (zlib.compress(ONES.tobytes())[:-8], {"compression": "gzip"}),
        (zlib.compress(ONES.tobytes()[:-4]), {"compression": "gzip"}),
        (b"not packed", {"compression": "gzip"}),
        (ONES.tobytes()[:-1], {"shuffle": True}),
        (ONES.tobytes() + b"abcd", {"fletcher32": True}),
        (b"abc", {"fletcher32": True}),
        (b"", LZ4),
        ((2**60).to_bytes(8, "big") + BLOCK + b"\0\0\0\5abcde", LZ4),
        (SIZE + (0).to_bytes(4, "big") + b"\0\0\0\5abcde", LZ4),
        (SIZE + (1).to_bytes(4, "big") + b"\0\0\0\1a" * 100, LZ4),
        (SIZE + BLOCK + b"\x7f\xff\xff\xff" + bytes(50), LZ4),
        (SIZE + BLOCK + b"\0\0\0\5abcde", LZ4),
        (SIZE + BLOCK + b"\0\0\0\x10" + b"\xff" * 16, LZ4),
    ],
)
def test_damaged_chunks(tmp_path: Path, content: bytes, packing: dict[str, object]) -> None:
    path = chunk(tmp_path / "a.mdl", content or b"x", **packing)
    with open_container(path) as container, pytest.raises(InvalidDataError) as caught:
        container.tensors["weight"].whole()
    assert caught.value.reason == "unreadable_checkpoint"
    assert "a chunk of 'weight' is damaged" in caught.value.message


def test_two_tensors_on_the_same_bytes(tmp_path: Path) -> None:
    with hdf5(tmp_path / "a.mdl") as file:
        file["one"], file["two"] = ONES, ONES * 2
        places = [file[name].id.get_offset().to_bytes(8, "little") for name in ("one", "two")]
    content = (tmp_path / "a.mdl").read_bytes()
    assert content.count(places[1]) == 1
    (tmp_path / "a.mdl").write_bytes(content.replace(places[1], places[0]))
    assert_refused(tmp_path / "a.mdl", "unsafe_checkpoint", "lie on the same bytes")


def test_an_attribute_that_is_too_large(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mdl", "w", libver="latest") as file:
        file.attrs["__version__"] = np.ones(2**21)
    assert_refused(tmp_path / "a.mdl", "unsafe_checkpoint", "'__version__' has more than")


def honest(path: Path) -> bytes:
    with hdf5(path) as file:
        file.create_dataset("weight", data=ONES, chunks=(16, 64), **hdf5plugin.LZ4())
        file.create_dataset("plain", data=np.arange(20_000.0, dtype="f4"))
        for number in range(20):
            file.create_dataset(f"small.{number}", data=np.arange(number + 1))
    return path.read_bytes()


def test_a_file_cut_short(tmp_path: Path) -> None:
    whole = honest(tmp_path / "whole")
    assert len(whole) > 65 * 1024

    def cut(length: int) -> bool:
        path = tmp_path / f"{length}.mdl"
        path.write_bytes(whole[:length])
        refused = opened_or_refused(path) is None
        path.unlink()
        return refused

    with nothing_left(tmp_path), ThreadPoolExecutor(3) as pool:
        assert all(pool.map(cut, [*range(1024, 65 * 1024, 1024), len(whole) - 1]))


def test_flipped_bytes_in_the_structure_are_no_crash(tmp_path: Path) -> None:
    whole = honest(tmp_path / "whole")

    def flip(place: int) -> None:
        path = tmp_path / f"{place}.mdl"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        container = opened_or_refused(path)
        path.unlink()
        if container is not None:
            with container:
                for lazy in container.tensors.values():
                    try:
                        lazy.whole()
                    except InvalidDataError as error:
                        assert error.reason == "unreadable_checkpoint"

    with nothing_left(tmp_path), ThreadPoolExecutor(3) as pool:
        list(pool.map(flip, [*range(0, 120, 11), *range(120, 4000, 301)]))


def test_the_honest_file_is_read(tmp_path: Path) -> None:
    honest(tmp_path / "whole")
    with open_container(tmp_path / "whole") as container:
        assert same(container.tensors["weight"], torch.from_numpy(ONES))
        assert same(container.tensors["small.3"], torch.arange(4))
