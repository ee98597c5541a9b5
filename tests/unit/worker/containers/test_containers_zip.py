"""Zip files that are no plain torch zip: packed, doubled, overlapping, misplaced."""

from __future__ import annotations

import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from container_files import assert_refused, pickled, rebuilt, storage, torch_zip

from regraft_worker.conversion.containers import open_container

TREE = {"a": rebuilt(storage(), 0, (4,), (1,), False, {})}
CENTRAL = b"PK\x01\x02"


def central(content: bytes, name: bytes) -> int:
    """Where the table's entry for `name` begins."""
    at = content.index(CENTRAL)
    while content[at + 46 : at + 46 + len(name)] != name:
        at = content.index(CENTRAL, at + 1)
    return at


def patched(path: Path, at: int, new: bytes) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[:at] + new + content[at + len(new) :])
    return path


def test_a_plain_one_is_read(tmp_path: Path) -> None:
    with open_container(torch_zip(tmp_path / "a.mdl", pickled(TREE))) as container:
        assert torch.equal(container.tensors["a"].whole(), torch.zeros(4))


def test_what_torch_writes_without_checksums_of_the_data(tmp_path: Path) -> None:
    kept = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(1000)}, tmp_path / "a.mdl")
    finally:
        torch.serialization.set_crc32_options(kept)
    with open_container(tmp_path / "a.mdl") as container:
        assert torch.equal(container.tensors["a"].whole(), torch.ones(1000))


def test_a_zip_bomb(tmp_path: Path) -> None:
    content = pickled({"a": rebuilt(storage(numel=2**24), 0, (2**24,), (1,), False, {})})
    path = torch_zip(tmp_path / "a.mdl", content, storages={"0": bytes(2**26)}, packed=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    assert_refused(path, "unsafe_checkpoint", "'archive/data/0' is compressed")


def test_a_bomb_that_calls_itself_stored(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.mdl", pickled(TREE), packed=zipfile.ZIP_DEFLATED)
    patched(path, central(path.read_bytes(), b"archive/data/0") + 10, b"\0\0")
    assert_refused(path, "unsafe_checkpoint", "'archive/data/0' is compressed")


def test_two_entries_of_one_name(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.mdl", pickled(TREE))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    assert_refused(path, "unreadable_checkpoint", "two entries of the zip file have one name")


def test_entries_that_overlap(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.mdl", pickled(TREE), storages={"0": bytes(16), "1": bytes(16)})
    content = path.read_bytes()
    first, second = central(content, b"archive/data/0"), central(content, b"archive/data/1")
    patched(path, second + 42, content[first + 42 : first + 46])
    assert_refused(path, "unsafe_checkpoint", "does not fill the bytes")


def test_an_entry_that_reaches_into_the_next(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.mdl", pickled(TREE), storages={"0": bytes(8), "1": bytes(16)})
    patched(path, central(path.read_bytes(), b"archive/data/0") + 20, struct.pack("<II", 16, 16))
    assert_refused(path, "unsafe_checkpoint", "does not fill the bytes")


def test_an_entry_whose_own_header_has_another_name(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.mdl", pickled(TREE))
    patched(path, path.read_bytes().index(b"archive/data/0") + 13, b"1")
    assert_refused(path, "unreadable_checkpoint", "has another name in the table")


def test_bytes_that_belong_to_no_entry(tmp_path: Path) -> None:
    whole = torch_zip(tmp_path / "whole", pickled(TREE)).read_bytes()
    path = tmp_path / "a.mdl"
    path.write_bytes(b"PK\x03\x04" + bytes(60) + whole)
    assert_refused(path, "unsafe_checkpoint", "not at 0")


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    for names in (("a.txt",), ("one/data.pkl", "two/data/0"), ("one/two/data.pkl",)):
        with zipfile.ZipFile(tmp_path / "a.mdl", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        assert_refused(tmp_path / "a.mdl", "unsupported_checkpoint", "not one that torch.save wrote")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()


def test_a_changed_pickle(tmp_path: Path) -> None:
    content = pickled({"learning rate": 1.5})
    path = torch_zip(tmp_path / "a.mdl", content)
    patched(path, path.read_bytes().index(b"learning"), b"l")
    open_container(path).close()
    patched(path, path.read_bytes().index(b"learning"), b"L")
    assert_refused(path, "unreadable_checkpoint", "the checksum is another one")
