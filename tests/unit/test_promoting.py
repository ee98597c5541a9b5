"""A checkpoint that two requests promote at the same moment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from regraft_api.artifacts import _link


def test_the_second_one_finds_the_first_one_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copytree = shutil.copytree

    def overtaken(source: Path, draft: Path, **options: object) -> None:
        copytree(source, tmp_path / "promoted")
        copytree(source, draft)

    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "weights").write_bytes(b"1")
    monkeypatch.setattr(shutil, "copytree", overtaken)

    _link(tmp_path / "step", tmp_path / "promoted")

    assert [path.name for path in sorted(tmp_path.iterdir())] == ["promoted", "step"]


def test_what_cannot_be_linked_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _link(tmp_path / "gone", tmp_path / "promoted")
