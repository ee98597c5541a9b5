"""The torch file: byte for byte what `torch.save` writes, nested and shared as asked, and above 4 GB."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch.utils.serialization import config
from writer_samples import State, lazies, no_tick, sha256, state

from regraft.errors import InvalidInputError
from regraft_worker.conversion.writers import flat, trained, trained_kind, write_torch_zip, zip_layout

VALUES = {
    "optimizer.param_groups.0.lr": 0.1,
    "optimizer.param_groups.0.betas.0": 0.9,
    "optimizer.param_groups.0.betas.1": 0.999,
    "optimizer.param_groups.0.params.0": 0,
    "global_step": 10,
    "name": "x",
    "nothing": None,
    "callbacks": [],
}


def contents(path: Path) -> list[tuple[str, int, bytes]]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return [(info.filename, info.header_offset, archive.read(info)) for info in archive.infolist()]


def without_id(entries: list[tuple[str, int, bytes]]) -> list[tuple[str, int, bytes]]:
    assert entries[-1][0].endswith("serialization_id")
    assert len(entries[-1][2]) == 40
    return entries[:-1]


def both(tmp_path: Path, given: State) -> tuple[Path, Path]:
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    ours, theirs = tmp_path / "ours" / "a.bin", tmp_path / "theirs" / "a.bin"
    write_torch_zip(ours, lazies(given), nest=flat, tick=no_tick)
    torch.save(given, theirs)
    return ours, theirs


def test_the_file_is_torchs_own_but_for_its_serial_number(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, state())
    assert without_id(contents(ours)) == without_id(contents(theirs))
    left, right = ours.read_bytes(), theirs.read_bytes()
    assert len(left) == len(right)
    start = left.index(b".data/serialization_id")
    assert left[:start] == right[:start]


def test_a_wrong_padding_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_layout, "ALIGNMENT", 32)
    ours, theirs = both(tmp_path, state())
    assert without_id(contents(ours)) != without_id(contents(theirs))


@pytest.mark.parametrize("options", [{"weights_only": True}, {"mmap": True}, {"mmap": True, "weights_only": False}])
def test_plain_torch_load_reads_it(tmp_path: Path, options: dict[str, bool]) -> None:
    found = write_torch_zip(tmp_path / "a.bin", lazies(state()), nest=flat, tick=no_tick)
    loaded = torch.load(tmp_path / "a.bin", **options)
    assert {name: sha256(tensor) for name, tensor in loaded.items()} == found
    assert all(tensor.is_contiguous() for tensor in loaded.values())


def test_torch_finds_the_storages_by_computing_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_torch_zip(tmp_path / "a.bin", lazies(state()), nest=flat, tick=no_tick)
    with config.patch("load.calculate_storage_offsets", True):
        loaded = torch.load(tmp_path / "a.bin", mmap=True)
    assert {name: sha256(tensor) for name, tensor in loaded.items()} == {n: sha256(t) for n, t in state().items()}


def test_archives_beyond_four_gigabytes_have_the_large_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_layout, "_LIMIT", 1500)  # "wide" is larger, and what follows stands behind it
    found = write_torch_zip(tmp_path / "a.bin", lazies(state()), nest=flat, tick=no_tick)
    monkeypatch.undo()
    entry = zip_layout.Entry("a/data/1", 2**32, 2**33)
    assert entry.header[30 + 8 :][:28] == b"\x01\x00\x18\x00" + b"".join(
        number.to_bytes(8, "little") for number in (2**32, 2**32, 2**33)
    )
    assert entry.data_at % 64 == 0
    assert entry.end == entry.data_at + 2**32 + 24
    content = (tmp_path / "a.bin").read_bytes()
    assert content.count(b"PK\x06\x06") == content.count(b"PK\x06\x07") == 1
    assert found.keys() == state().keys()


def test_names_nest_below_their_first_part_and_aliases_share_memory(tmp_path: Path) -> None:
    given = {"model.ln_f.weight": torch.randn(4), "model.lm_head.weight": torch.randn(3, 4)}
    twins = {"model.transformer_decoder.norm.weight": "model.ln_f.weight"}
    write_torch_zip(tmp_path / "a.mdl", lazies(given), aliases=twins, tick=no_tick)
    loaded = torch.load(tmp_path / "a.mdl", weights_only=True)
    assert list(loaded) == ["model"]
    assert list(loaded["model"]) == ["ln_f.weight", "lm_head.weight", "transformer_decoder.norm.weight"]
    model = loaded["model"]
    assert model["ln_f.weight"].data_ptr() == model["transformer_decoder.norm.weight"].data_ptr()
    with zipfile.ZipFile(tmp_path / "a.mdl") as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 2


def test_a_trained_checkpoint_nests_as_training_saves_it(tmp_path: Path) -> None:
    given = {"model.model.a.weight": torch.zeros(1), "optimizer.state.0.exp_avg": torch.ones(1)}
    order = ["name", "model.model.a.weight", "optimizer.state.0.exp_avg"]
    options = {"values": VALUES, "nest": trained, "kind": trained_kind, "order": order}
    write_torch_zip(tmp_path / "a.mdl", lazies(given), **options, tick=no_tick)
    loaded = torch.load(tmp_path / "a.mdl", weights_only=True)
    assert list(loaded) == ["name", "model", "optimizer", "global_step", "nothing", "callbacks"]
    assert isinstance(loaded["model"], OrderedDict)
    assert list(loaded["optimizer"]["state"]) == [0]
    assert loaded["optimizer"]["param_groups"] == [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0]}]
    assert (loaded["global_step"], loaded["name"], loaded["nothing"], loaded["callbacks"]) == (10, "x", None, [])


def test_a_value_that_is_no_plain_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="code"):
        write_torch_zip(tmp_path / "a.mdl", lazies(state()), values={"code": print}, tick=no_tick)
    assert list(tmp_path.iterdir()) == []
