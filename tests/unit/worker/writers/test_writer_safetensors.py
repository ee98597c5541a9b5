"""The safetensors file: byte for byte the library's own, and what it cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from writer_samples import lazies, no_tick, state

from regraft.errors import InvalidInputError
from regraft.safetensors_header import read_header
from regraft_worker.conversion.writers import write_safetensors


def test_the_file_is_the_librarys_own_when_names_are_sorted(tmp_path: Path) -> None:
    given = {f"layer.{number}.weight": torch.randn(number, 3) for number in range(1, 5)}
    write_safetensors(tmp_path / "a", lazies(given), tick=no_tick)
    assert (tmp_path / "a").read_bytes() == save(given, metadata={"format": "pt"})


def test_every_tensor_is_aligned_to_its_items(tmp_path: Path) -> None:
    given = {"flags": torch.tensor([True]), "double": torch.zeros(1).double(), **state()}
    write_safetensors(tmp_path / "a", lazies(given), tick=no_tick)
    header_bytes = 8 + int.from_bytes((tmp_path / "a").read_bytes()[:8], "little")
    for name, entry in read_header(tmp_path / "a").items():
        assert (header_bytes + entry.begin) % given[name].element_size() == 0


def test_strings_go_into_the_metadata_and_other_values_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", lazies(state()), values={"made_by": "a test"}, tick=no_tick)
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "made_by": "a test"}
    with pytest.raises(InvalidInputError, match="global_step"):
        write_safetensors(tmp_path / "b", lazies(state()), values={"global_step": 3}, tick=no_tick)
