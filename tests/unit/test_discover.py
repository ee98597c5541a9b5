"""Plug-ins are found by their file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft import discover
from regraft.errors import InvalidInputError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "plugins_under_test"
    folder.mkdir()
    for name in ("__init__", "base", "_private", "zinc", "argon"):
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "plugins_under_test"


def test_names_are_sorted_and_leave_out_base_and_private_files(package: str) -> None:
    assert discover.names(package) == ["argon", "zinc"]


def test_loading_imports_the_module_of_that_name(package: str) -> None:
    assert discover.load(package, "zinc").NAME == "zinc"


@pytest.mark.parametrize("name", ["base", "_private", "xenon", "", "argon.x"])
def test_an_unknown_name_is_refused_with_the_field_and_the_choice(package: str, name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        discover.load(package, name, field="dataset.source")
    assert caught.value.field == "dataset.source"
    assert caught.value.value == name
    assert "argon, zinc" in str(caught.value)
