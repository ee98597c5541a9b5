"""HDF5 format 0.5, read with h5py alone. The comparison with the Model Zoo's own files is in `tests/parity`."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import torch
from writer_samples import lazies, no_tick, state

from regraft.errors import InvalidInputError
from regraft_worker.conversion.writers import trained, trained_kind, write_hdf5_05

VALUES = {"lr": 0.5, "steps": 7, "on": True, "name": "x", "none": None, "list": []}


def metadata(file: h5py.File, name: str) -> dict[str, object]:
    return dict(json.loads(file.attrs[f"{name}.__metadata__"])[f"{name}.__metadata__"])


def test_values_are_kept_in_attributes(tmp_path: Path) -> None:
    write_hdf5_05(tmp_path / "a.mdl", lazies(state()), values=VALUES, aliases={"step": "steps"}, tick=no_tick)
    with h5py.File(tmp_path / "a.mdl") as file:
        found = {name: metadata(file, name) for name in ("lr", "steps", "on", "name", "none", "step")}
        tree, _ = json.loads(file.attrs["__spec__"])
        assert file.attrs["__SUCCESS__"]
    assert [found[name].get("scalar_value") for name in ("lr", "steps", "on")] == [0.5, 7, True]
    assert found["name"]["string_value"] == "x"
    assert found["none"] == {"__TYPE__": "NoneSerializer", "__NONE__": True}
    assert found["step"]["key"] == "steps"
    assert tree["list"] == []
    assert tree["lr"] == "*"


def test_the_file_has_the_old_superblock_and_plain_datasets(tmp_path: Path) -> None:
    write_hdf5_05(tmp_path / "a.mdl", lazies(state()), tick=no_tick)
    assert (tmp_path / "a.mdl").read_bytes()[8] == 0
    with h5py.File(tmp_path / "a.mdl") as file:
        assert {dataset.chunks for dataset in file.values()} == {None}


def test_a_file_that_is_not_whole_has_no_success(tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(count: int) -> None:
        seen.append(b"__SUCCESS__" in (tmp_path / "a.mdl").read_bytes())

    write_hdf5_05(tmp_path / "a.mdl", lazies(state()), tick=look)
    assert seen
    assert not any(seen)


def test_an_alias_takes_no_space(tmp_path: Path) -> None:
    large = lazies({"model.a": torch.randn(1000, 100)})
    write_hdf5_05(tmp_path / "a.mdl", large, aliases={"model.b": "model.a"}, tick=no_tick)
    assert (tmp_path / "a.mdl").stat().st_size < 500_000
    with h5py.File(tmp_path / "a.mdl") as file:
        assert file["model.a"] == file["model.b"]
        assert metadata(file, "model.b") == metadata(file, "model.a")


def test_an_alias_outside_the_model_is_a_linked_object(tmp_path: Path) -> None:
    rate = lazies({"optimizer.lr": torch.tensor(0.5)})
    digests = write_hdf5_05(tmp_path / "a.mdl", rate, aliases={"schedulers.lr": "optimizer.lr"}, tick=no_tick)
    assert digests["schedulers.lr"] == digests["optimizer.lr"]
    with h5py.File(tmp_path / "a.mdl") as file:
        assert list(file) == ["optimizer.lr"]
        assert metadata(file, "schedulers.lr")["key"] == "optimizer.lr"


def test_thousands_of_leaves_fit(tmp_path: Path) -> None:
    values = {f"optimizer.state.{number}.step": number for number in range(1500)}
    options = {"nest": trained, "kind": trained_kind}
    write_hdf5_05(tmp_path / "a.mdl", lazies(state()), values=values, **options, tick=no_tick)
    with h5py.File(tmp_path / "a.mdl") as file:
        assert len(file.attrs["__spec__"]) > 2**16
        assert metadata(file, "optimizer.state.1499.step")["scalar_value"] == 1499


@pytest.mark.parametrize("name", ["a/b", ""])
def test_a_name_that_hdf5_would_nest_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError):
        write_hdf5_05(tmp_path / "a.mdl", lazies({name: torch.zeros(1)}), tick=no_tick)
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_without_a_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="int32"):
        write_hdf5_05(tmp_path / "a.mdl", lazies({"a": torch.zeros(1, dtype=torch.int32)}), tick=no_tick)
