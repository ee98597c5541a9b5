"""From addresses to files."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import zstandard

from regraft.errors import InvalidDataError, InvalidInputError
from regraft_dataprep.sources._files import find_files
from regraft_dataprep.sources._streams import count_newlines, sha256_of

SUFFIXES = (".txt", ".txt.gz", ".txt.zst")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """b.txt, a/z.txt, a/y.TXT, and what is not to be read."""
    for name in ("b.txt", "a/z.txt", "a/y.TXT", "a/c.md", ".hidden/d.txt", "a/.e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    for name in ("/corpus/2.txt", "/corpus/sub/1.txt", "/corpus/3.md"):
        system.pipe(name, name.encode())
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def names(uri: object, root: Path) -> list[str]:
    return [os.path.relpath(file.uri, root) for file in find_files(uri, suffixes=SUFFIXES)]  # type: ignore[arg-type]


def test_a_folder_is_read_recursively_in_order_by_suffix_without_what_is_hidden(tree: Path) -> None:
    assert names(str(tree), tree) == ["a/y.TXT", "a/z.txt", "b.txt"]
    assert names(tree.as_uri(), tree) == ["a/y.TXT", "a/z.txt", "b.txt"]


def test_a_glob_takes_what_it_matches_whatever_it_is_called(tree: Path) -> None:
    assert names(f"{tree}/a/*", tree) == ["a/c.md", "a/y.TXT", "a/z.txt"]
    assert names(f"{tree}/**/?.txt", tree) == ["a/z.txt", "b.txt"]
    assert names((tree / "a" / "[yz].*").as_uri(), tree) == ["a/y.TXT", "a/z.txt"]


def test_a_name_that_looks_like_a_glob_is_a_name_first(tree: Path) -> None:
    (tree / "x[1].txt").write_text("")
    assert names(str(tree / "x[1].txt"), tree) == ["x[1].txt"]


def test_a_list_keeps_its_order_and_reads_nothing_twice(tree: Path) -> None:
    assert names([str(tree / "b.txt"), str(tree / "a/c.md"), str(tree)], tree) == [
        "b.txt",
        "a/c.md",
        "a/y.TXT",
        "a/z.txt",
    ]


@pytest.mark.parametrize("name", ["missing.txt", "*.nothing", "empty"])
def test_what_is_not_there_is_refused_even_within_a_list(tree: Path, name: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no such file") as caught:
        find_files([str(tree / "b.txt"), str(tree / name)], suffixes=SUFFIXES)
    assert (caught.value.field, caught.value.reason) == ("dataset.uri", "corpus_not_found")
    assert caught.value.value == str(tree / name)
    assert ".txt.zst" in caught.value.remedy


@pytest.mark.parametrize("name", ["b.txt", "a"])
def test_what_may_not_be_read_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name)
    with pytest.raises(InvalidInputError) as caught:
        find_files([str(tree / "a"), str(tree / "b.txt")], suffixes=SUFFIXES)
    assert (caught.value.reason, caught.value.value) == ("corpus_not_readable", str(tree / name))


def test_urls_of_any_file_system_are_files_folders_and_globs(memory: fsspec.AbstractFileSystem) -> None:
    for uri in ("memory://corpus", "memory://corpus/", "memory://corpus/**/*.txt"):
        files = find_files(uri, suffixes=SUFFIXES)
        assert [file.uri for file in files] == ["memory:///corpus/2.txt", "memory:///corpus/sub/1.txt"], uri
        assert [file.name for file in files] == ["2.txt", "1.txt" if "*" in uri else "sub/1.txt"], uri
    (file,) = find_files("memory://corpus/3.md", suffixes=SUFFIXES)
    with file.open() as stream:
        assert stream.read() == b"/corpus/3.md"
    before = file.stamp()
    memory.pipe("/corpus/3.md", b"other")
    assert file.stamp() != before


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("memory://corpus/no", "corpus_not_found"),
        ("memory://corpus/*.no", "corpus_not_found"),
        ("nosuchscheme://x", "unsupported_scheme"),
    ],
)
def test_urls_that_lead_nowhere_are_refused(memory: fsspec.AbstractFileSystem, uri: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_files(uri, suffixes=SUFFIXES)
    assert (caught.value.field, caught.value.value, caught.value.reason) == ("dataset.uri", uri, reason)


CONTENT = os.urandom(300_000) + b"a" * 3_000_000
PACKED = {
    "x.txt": CONTENT,
    "x.txt.gz": gzip.compress(CONTENT[:99]) + gzip.compress(CONTENT[99:]),
    "x.txt.zst": zstandard.compress(CONTENT[:99]) + zstandard.compress(CONTENT[99:]),
}


@pytest.mark.parametrize("name", PACKED)
def test_files_are_unpacked_and_the_raw_bytes_hashed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED[name])
    (file,) = find_files(str(path), suffixes=SUFFIXES)
    with file.open() as stream:
        assert stream.read() == CONTENT
    with file.open_raw() as stream:
        assert sha256_of(stream) == (hashlib.sha256(PACKED[name]).hexdigest(), len(PACKED[name]))
    assert (file.size(), file.plain) == (len(PACKED[name]), name == "x.txt")


@pytest.mark.parametrize("remote", [True, False])
def test_files_can_be_sent_to_other_processes(tree: Path, memory: fsspec.AbstractFileSystem, remote: bool) -> None:
    (file,) = find_files("memory://corpus/3.md" if remote else tree / "b.txt", suffixes=SUFFIXES)
    sent = pickle.loads(pickle.dumps(file))
    with sent.open() as stream:
        assert stream.seek(2) == 2
        assert stream.readline(3) == (b"orp" if remote else b"txt")
    assert (sent.size(), sent.stamp()) == (file.size(), file.stamp())


def test_newlines_are_counted_up_to_a_place(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"a\n" * 1_200_000)
    for size, lines in ((0, 0), (1, 0), (2, 1), (2**20 + 1, 2**19), (10**9, 1_200_000)):
        with path.open("rb") as stream:
            assert count_newlines(stream, size) == lines


@pytest.mark.parametrize("name", ["x.txt.gz", "x.txt.zst"])
@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:200_000], lambda data: b"x" + data])
def test_a_cut_off_or_broken_archive_is_an_error_that_names_it(tmp_path: Path, name: str, damage: object) -> None:
    path = tmp_path / name
    path.write_bytes(damage(PACKED[name]))  # type: ignore[operator]
    (file,) = find_files(str(path), suffixes=SUFFIXES)
    with file.open() as stream, pytest.raises(InvalidDataError, match="broken or cut off") as caught:
        stream.read()
    assert (caught.value.field, caught.value.value) == ("dataset.uri", str(path))
    assert caught.value.reason == "corpus_malformed"


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz", "x.txt.zst"])
def test_an_empty_file_is_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (file,) = find_files(str(tmp_path), suffixes=SUFFIXES)
    with file.open() as stream:
        assert stream.read() == b""
