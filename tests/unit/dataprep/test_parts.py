"""A corpus is the sum of its parts, wherever its files are cut; and what is held of it is bounded."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources import _lines, _pieces, csv, jsonl, open_source, text, trc2
from regraft_dataprep.sources.base import BadRecord, Part, Source

Found = list[Document | BadRecord | str]

SIZES = st.sampled_from([1, 2, 7, 20, 100])
ENDS = st.sampled_from([b"\n", b"\r\n"])


def lines_of(*choices: str | bytes) -> st.SearchStrategy[bytes]:
    """Files of such lines, with any line ends, with or without a last one, with or without a byte order mark."""
    encoded = [choice.encode() if isinstance(choice, str) else choice for choice in choices]
    lines = st.lists(st.tuples(st.sampled_from(encoded), ENDS).map(b"".join), max_size=8).map(b"".join)
    return st.tuples(st.sampled_from([b"", _lines.BOM]), lines, st.booleans()).map(
        lambda drawn: drawn[0] + (drawn[1].rstrip(b"\r\n") if drawn[2] else drawn[1])
    )


def story(text: str) -> str:
    return f"<DOC>\n<DOCNO>TRC2-2008-08-10-0001</DOCNO>\n<CONTENT>\n2008-08-10 14:07:45 {text}\n</CONTENT>\n</DOC>"


JSONL = lines_of(
    '{"text": "good"}', '{"text": "é€𐍈"}', '{"text": "' + "long " * 60 + '"}', "", " ", "bad", b"\xff", "5"
)
TEXT = lines_of("one", "é€𐍈 zwei", "w " * 30, "x" * 90, "", "", " \t", " " * 40, " after white space", b"bad \xff")
TRC2 = lines_of(story("plain"), story("é\nmore"), story("word " * 50), "", "stray", "<", "</").map(
    lambda content: content.replace(_lines.BOM, b"")
)


@contextmanager
def short_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pieces, "_PIECE_BYTES", 12)
        patch.setattr(_pieces, "_MAX_PIECE_BYTES", 30)
        patch.setattr(text, "_FRAGMENT_BYTES", 5)
        yield


def opened(name: str, uri: object, **reading: Any) -> Source:
    return open_source(name, uri=uri, reading=ReadingSpec.model_validate(reading))  # type: ignore[arg-type]


def read(source: Source, part_bytes: int) -> Found:
    """All records, and the error that ended them."""
    found: Found = []
    try:
        for part in source.parts(part_bytes=part_bytes):
            found.extend(source.read(part))
    except InvalidDataError as error:
        found.append(str(error))
    return found


def check(name: str, files: list[bytes], part_bytes: int, **reading: Any) -> None:
    """Cut or not, on a disk or behind fsspec, in one process or another: the same."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.{name}") for number in range(len(files))]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        whole, cut = (opened(name, paths, **reading) for _ in range(2))
        expected = read(whole, 10**9)
        assert read(cut, part_bytes) == expected
        assert cut.stray_lines == whole.stray_lines
        if not any(isinstance(record, str) for record in expected):
            sent = pickle.loads(pickle.dumps(cut))
            backwards = [list(sent.read(part)) for part in reversed(cut.parts(part_bytes=part_bytes))]
            assert [record for records in reversed(backwards) for record in records] == expected


@settings(deadline=None, max_examples=150)
@given(st.lists(JSONL, min_size=1, max_size=3), SIZES)
def test_json_lines_belong_to_the_part_they_begin_in(files: list[bytes], part_bytes: int) -> None:
    check("jsonl", files, part_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_MAX_LINE_BYTES", 25)
        patch.setattr(_lines, "_BLOCK_BYTES", 3)
        check("jsonl", files, part_bytes)


@settings(deadline=None, max_examples=100)
@given(st.lists(TRC2, min_size=1, max_size=3), SIZES)
def test_stories_belong_to_the_part_their_segment_begins_in(files: list[bytes], part_bytes: int) -> None:
    check("trc2", files, part_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trc2, "_MAX_STORY_BYTES", 200)
        patch.setattr(trc2, "_BLOCK_BYTES", 64)
        patch.setattr(trc2, "_AHEAD_BYTES", 9)
        check("trc2", files, part_bytes)


@settings(deadline=None, max_examples=200)
@given(st.lists(TEXT, min_size=1, max_size=3), SIZES, st.sampled_from(["file", "paragraph"]))
def test_paragraphs_are_whole_and_once(files: list[bytes], part_bytes: int, documents: str) -> None:
    check("text", files, part_bytes, documents=documents)
    with short_pieces():
        check("text", files, part_bytes, documents=documents)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["a", "é" * 30, "long " * 99, None]), max_size=12), SIZES, st.integers(1, 5))
def test_rows_of_parquet_keep_their_numbers(texts: list[str | None], part_bytes: int, rows: int) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), sink, row_group_size=rows)
    check("parquet", [sink.getvalue(), sink.getvalue()], part_bytes)


@pytest.mark.parametrize("name", ["jsonl", "text", "trc2"])
def test_a_part_cut_carelessly_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The planted error: a part begins where it is cut."""

    def careless(stream: BinaryIO, part: Part) -> int:
        return stream.seek(part.start)

    module, function = {"jsonl": (jsonl, "first_line"), "text": (text, "first_line"), "trc2": (trc2, "_first_segment")}[
        name
    ]
    content = {"jsonl": '{"text": "a"}\n' * 9, "text": "one  \ntwo\n\n" * 9, "trc2": (story("a") + "\n") * 9}[name]
    check(name, [content.encode()], 4, documents="paragraph")
    monkeypatch.setattr(module, function, careless)
    with pytest.raises(AssertionError):
        check(name, [content.encode()], 4, documents="paragraph")


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_files_behind_fsspec_are_cut_like_local_ones(memory: fsspec.AbstractFileSystem) -> None:
    lines = b'{"text": "good"}\nbad\n\n' * 5
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", None, "b"]}), sink, row_group_size=1)
    contents = {"jsonl": lines, "txt": lines, "trc2": (story("é") + "\n").encode() * 5, "parquet": sink.getvalue()}
    for suffix, content in contents.items():
        memory.pipe(f"/corpus/1.{suffix}", content)
        name = "text" if suffix == "txt" else suffix
        source = opened(name, f"memory://corpus/1.{suffix}", documents="paragraph")
        assert len(source.parts(part_bytes=5)) > 2
        assert read(source, 5) == read(source, 10**9) != []
        assert source.inventory().bytes == len(content)


def test_parts_follow_from_the_files_alone(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", b"x" * 25), ("b.jsonl", b""), ("c.jsonl.gz", gzip.compress(b"x" * 99))):
        (tmp_path / name).write_bytes(content)
    source = opened("jsonl", tmp_path)
    assert source.parts() == [Part(0), Part(1), Part(2)]
    assert source.parts(part_bytes=25) == source.parts()
    assert source.parts(part_bytes=10) == [Part(0, 0, 10), Part(0, 10, 20), Part(0, 20, 25), Part(1), Part(2)]


def test_row_groups_are_joined_up_to_the_size_of_a_part(tmp_path: Path) -> None:
    texts = [f"{number} " * 500 for number in range(10)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=2, use_dictionary=False)
    source = opened("parquet", tmp_path)
    size = pq.read_metadata(tmp_path / "a.parquet").row_group(0).total_byte_size
    assert source.parts() == [Part(0)]
    assert source.parts(part_bytes=1) == [Part(0, 0, 1), Part(0, 1, 2), Part(0, 2, 3), Part(0, 3, 4), Part(0, 4)]
    assert source.parts(part_bytes=size + 1) == [Part(0, 0, 2), Part(0, 2, 4), Part(0, 4)]


@pytest.mark.parametrize(("name", "documents"), [("csv", "file"), ("text", "file"), ("huggingface", "file")])
def test_what_cannot_be_read_from_the_middle_is_one_part(tmp_path: Path, name: str, documents: str) -> None:
    (tmp_path / f"a.{'arrow' if name == 'huggingface' else name}").write_bytes(b"x" * 99)
    path = next(tmp_path.iterdir())
    assert opened(name, path, documents=documents).parts(part_bytes=1) == [Part(0)]


def test_counting_lines_goes_on_from_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\nx" * 50)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"\nx" * 50))
    source = opened("jsonl", tmp_path)
    for file in (0, 1):
        assert [source.lines_before(file, position) for position in (0, 51, 100, 50, 1)] == [0, 26, 50, 25, 1]


@settings(deadline=None, max_examples=300)
@given(st.text("ab \n\u3000é𐍈", max_size=80))
def test_the_pieces_of_a_long_text_are_the_text(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder, short_pieces():
        Path(folder, "a.txt").write_bytes(content.encode())
        found = read(opened("text", folder), 1)
    pieces = [piece for piece in found if isinstance(piece, Document)]
    assert [piece.continues for piece in pieces] == [True] * (len(found) - 1) + [False]
    joined = "".join(piece.text for piece in pieces)
    assert joined == content.strip() or (joined.rstrip() == content.strip() and re.search(r"\s\s$", content))
    for piece, following in pairwise(pieces):
        assert len(piece.text.encode()) <= 35
        forced = len(piece.text.encode()) > 20
        assert forced or (following.text[0].isspace() and not piece.text[-1].isspace())
        assert piece.text
        assert following.text


def test_broken_utf8_is_bad_in_a_short_document_and_an_error_in_a_long_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with short_pieces():
        path.write_bytes(b"\n\nshort\xff")
        assert [str(record) for record in read(opened("text", path, documents="paragraph"), 1)] == [
            "a.txt, line 3: it is not valid UTF-8: invalid start byte at byte 5 of the document"
        ]
        for content in ("é w \n" * 9, "long " * 9 + "\n\n" + "w" * 40, " " * 50):
            path.write_bytes(content.encode() + b"\xe2\x82")
            *_, said = read(opened("text", path, documents="file"), 1)
            assert f"is not valid UTF-8: unexpected end of data at byte {len(content.encode())} of the file" in str(
                said
            )
            assert str(path) in str(said)


def test_a_paragraph_in_pieces_is_followed_by_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone two three four five\nsix\n\nshort\n\n")
    with short_pieces():
        pieces = read(opened("text", tmp_path, documents="paragraph"), 1)
    assert pieces == [
        Document("one two", continues=True),
        Document(" three four", continues=True),
        Document(" five\nsix"),
        Document("short"),
    ]


def peak_of(source: Source) -> tuple[int, int]:
    """Records, and the most bytes that were held while they were read."""
    tracemalloc.start()
    try:
        records = sum(1 for part in source.parts() for _ in source.read(part))
        return records, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "documents"), [("text", "file"), ("text", "paragraph"), ("jsonl", "file"), ("csv", "file")]
)
def test_one_endless_line_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, documents: str
) -> None:
    monkeypatch.setattr(_pieces, "_PIECE_BYTES", 2**20)
    monkeypatch.setattr(_pieces, "_MAX_PIECE_BYTES", 2**22)
    monkeypatch.setattr(jsonl, "_MAX_LINE_BYTES", 2**20)
    monkeypatch.setattr(csv, "_MAX_ROW_CHARACTERS", 2**20)
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write(b"headline,story\n,")
        for number in range(120):
            file.write(b"word " * 200_000 if number % 2 else b"x" * 10**6)
    records, peak = peak_of(opened(name, path, documents=documents))
    assert records >= (30 if name == "text" else 1)
    assert peak < 25 * 2**20
