"""The inputs of `create-hdf5`: every kind of file, what is passed over, and what damaged ones say."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from regraft.errors import InvalidDataError, InvalidInputError
from regraft_dataprep.reference.documents import list_inputs, read_documents

RECORDS = '{"text": "é"}\n\n{"text": ["a", "b"]}\n'.encode()
TEXTS = ["é", "a\n\nb"]


def packed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(folder := tarfile.TarInfo("part"))
        folder.type = tarfile.DIRTYPE
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_parquet(path: Path, values: Sequence[object], *, column: str = "text") -> Path:
    pq.write_table(pa.table({"id": list(range(len(values))), column: values}), path, row_group_size=7)
    return path


def read(path: Path, key: str = "text") -> list[str]:
    return list(read_documents(path, jsonl_key=key))


def test_documents_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl").write_bytes(RECORDS)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(RECORDS))
    (tmp_path / "c.jsonl.zst").write_bytes(packed(RECORDS) + packed(b'{"text": "second frame"}\n'))
    (tmp_path / "d.txt").write_bytes(b"x\r\ny\n")
    write_tar(tmp_path / "e.jsonl.zst.tar", {"part/1": packed(RECORDS), "part/2": packed(RECORDS)})
    write_parquet(tmp_path / "f.parquet", [f"row {number}" for number in range(600)])
    write_parquet(tmp_path / "g.parquet", [["a", "b"], ["c"]])
    found = list_inputs(input_dir=str(tmp_path), metadata_files=None)
    assert {path.name: read(path) for path in found.paths} == {
        "b.json.gz": TEXTS,
        "c.jsonl.zst": [*TEXTS, "second frame"],
        "d.txt": ["x\ny\n"],
        "e.jsonl.zst.tar": TEXTS + TEXTS,
        "f.parquet": [f"row {number}" for number in range(600)],
        "g.parquet": ["a\n\nb", "c"],
        "a.jsonl": TEXTS,
    }
    assert found.passed_over == []


def test_the_key_names_a_field_or_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": 1, "body": "x"}\n')
    write_parquet(tmp_path / "b.parquet", ["y"], column="body")
    assert [read(tmp_path / name, "body") for name in ("a.jsonl", "b.parquet")] == [["x"], ["y"]]


def test_files_of_other_kinds_are_passed_over_and_named(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.txt", "notes.md"):
        (tmp_path / name).touch()
    found = list_inputs(input_dir=str(tmp_path), metadata_files=None)
    assert [path.name for path in found.paths] == ["b.txt"]
    assert [path.name for path in found.passed_over] == ["a.jsonl.gz", "notes.md"]
    (tmp_path / "b.txt").unlink()
    with pytest.raises(InvalidInputError, match=r"none of the 2 files.*\.parquet"):
        list_inputs(input_dir=str(tmp_path), metadata_files=None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"{"),
        ("a.jsonl", b"[1]\n"),
        ("a.jsonl", b'{"text": null}\n'),
        ("a.jsonl", b'{"text": ["a", 1]}\n'),
        ("a.txt", b"\xff"),
        ("a.json.gz", b"no gzip"),
        ("a.json.gz", gzip.compress(RECORDS)[:-9]),
        ("a.jsonl.zst", packed(RECORDS)[:-3]),
        ("a.jsonl.zst.tar", b"no tar"),
        ("a.parquet", b"no parquet"),
    ],
)
def test_damaged_documents_name_their_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidDataError, match=name):
        read(tmp_path / name)


def test_a_parquet_file_without_the_column_or_with_a_missing_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="no column 'text'"):
        read(write_parquet(tmp_path / "a.parquet", ["x"], column="body"))
    with pytest.raises(InvalidDataError, match=r"row 9 holds no text but NoneType"):
        read(write_parquet(tmp_path / "a.parquet", ["x"] * 8 + [None]))


def test_an_archive_cut_off_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.jsonl.zst.tar", {"1": packed(RECORDS), "2": packed(RECORDS)}).read_bytes()
    cut = tmp_path / "cut.jsonl.zst.tar"
    for size in (512, 1024, 1024 + 600, 1536, 2048, 2500):
        cut.write_bytes(whole[:size])
        with pytest.raises(InvalidDataError, match="cut off"):
            read(cut)


def test_a_damaged_file_in_an_archive_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.jsonl.zst.tar", {"good": packed(RECORDS), "bad": packed(RECORDS)[:-3]})
    with pytest.raises(InvalidDataError, match=r"a\.jsonl\.zst\.tar: bad"):
        read(path)
