"""The TRC2 reader."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.clean import clean_story
from regraft_dataprep.document import Document
from regraft_dataprep.sources import _story, trc2


def story(
    number: int = 0, text: str = "2008-08-10 14:07:45 OIL RISES\n\nLONDON - Oil rose.", *, docno: bool = True
) -> str:
    name = f"<DOCNO>TRC2-2008-08-10-{number:04d}</DOCNO>\n" if docno else ""
    return f"<DOC>\n{name}<BLOGS08DAY>295</BLOGS08DAY>\n<CONTENT>\n{text}\n</CONTENT>\n</DOC>\n"


def source(tmp_path: Path, content: str | bytes) -> trc2.Trc2Source:
    path = tmp_path / "corpus"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return trc2.Trc2Source(path)


def read(source: trc2.Trc2Source, part_bytes: int = 2**25) -> list[Document]:
    return [document for part in source.parts(part_bytes=part_bytes) for document in source.read(part)]


def test_one_document_per_story_in_file_order_empty_ones_too(tmp_path: Path) -> None:
    content = story(2) + story(1, "2008-08-09 00:00:01 ") + story(0, "no stamp here")  # its date is in its id
    assert read(source(tmp_path, content)) == [
        Document("OIL RISES\n\nLONDON - Oil rose.", "TRC2-2008-08-10-0002", datetime(2008, 8, 10, 14, 7, 45)),
        Document("", "TRC2-2008-08-10-0001", datetime(2008, 8, 9, 0, 0, 1)),
        Document("no stamp here", "TRC2-2008-08-10-0000", datetime(2008, 8, 10)),
    ]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_the_size_of_the_blocks_read_makes_no_difference(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    stories = 20 if size == 1 else 200
    expected = read(trc2.Trc2Source(corpus))[:stories]
    small = corpus.parent / f"head-{size}"
    small.write_bytes(b"</DOC>\n".join(corpus.read_bytes().split(b"</DOC>\n")[:stories]) + b"</DOC>\n")
    monkeypatch.setattr(trc2, "_BLOCK_BYTES", size)
    monkeypatch.setattr(trc2, "_AHEAD_BYTES", size)
    assert read(trc2.Trc2Source(small)) == read(trc2.Trc2Source(small), 5000) == expected


_TAGS = ["<DOCNO>TRC2-1</DOCNO>", "<BLOGS08DAY>1</BLOGS08DAY>", " <DOCNO>", "<CONTENT>", "</CONTENT>", "<A></B></A>"]
_PLAIN = ["2008-08-10 14:07:45 Head", "2008", "", " ", "\t", "\r", "\t7 up ", "plain ", "Z", "é", "\x0b", "\x1c"]
_MARKED = [
    "[cut] 7",
    "a] [b",
    "(Click on the Zoo)",
    "TRC2-7 TRC2-8",
    "-: <IBM.N> <IBM>",
    "\udce9\udcff",
    " \udce2\udc82",
]
_LINES = st.lists(st.sampled_from([*_TAGS, *_PLAIN, *_MARKED]), max_size=8)


@settings(deadline=None, max_examples=200)
@given(_LINES)
def test_a_story_is_cleaned_as_its_lines_are(lines: list[str]) -> None:
    """But for the lines of its id and its day, which go as a whole."""
    encoded = [line.encode("utf-8", "surrogateescape") for line in lines]
    body = b"".join(b"\n" + line for line in encoded)
    kept = [line for line in encoded if not line.startswith((b"<DOCNO>", b"<BLOGS08DAY>"))]
    assert _story.text_of(body) == clean_story(b"\n".join(kept))
    assert _story.text_of(body, raw=True).encode("utf-8", "surrogateescape") == b"\n".join(kept)


@pytest.mark.parametrize(
    "change",
    [
        ("\n<CONTENT>", " \n<CONTENT>"),
        ("<DOCNO>", "<DOCNO>\n"),
        ("<BLOGS08DAY>295</BLOGS08DAY>\n", ""),
        ("<CONTENT>\n", "<CONTENT> "),
        ("</CONTENT>", "</CONTENT> "),
        ("\n", "\r\n"),
        ("<DOC>", "stray\n<DOC>"),
    ],
)
def test_tags_elsewhere_make_the_same_document(tmp_path: Path, change: tuple[str, str]) -> None:
    (ordinary,) = read(source(tmp_path, story()))
    (unusual,) = read(source(tmp_path, story().replace(*change)))
    assert unusual.text.replace("\r", "") == ordinary.text
    assert (unusual.id, unusual.timestamp) == (ordinary.id, ordinary.timestamp)


def test_windows_line_ends_and_a_missing_last_newline_are_read(tmp_path: Path) -> None:
    content = (story(0) + story(1)).replace("\n", "\r\n").rstrip()
    assert len(read(source(tmp_path, content))) == 2


def test_text_outside_of_stories_is_counted(tmp_path: Path) -> None:
    for part_bytes in (1, 50, 10_000):
        reader = source(tmp_path, f"prologue\n{story(0)}\nbetween\n\n{story(1)}after\n")
        assert len(read(reader, part_bytes)) == 2
        assert reader.stray_lines == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("date,headline\n2008,Oil\n" * 10, "this is not a TRC2 file: it has no line <DOC>"),
        ("a\n</DOC>\n", "the </DOC> at line 2 closes a story that was not opened"),
        (story(0) + "\n</DOC>\n", "the </DOC> at line 11 closes"),
        (story(0) + story(1)[:-8], "the <DOC> at line 10 is never closed"),
        (story(0) + story(1).replace("</DOC>\n", "") + story(2), "the <DOC> at line 10 is never closed"),
        ("\n" + story(0) + story(1, docno=False), "the story at line 11 has no <DOCNO>"),
        (story(0, "no stamp").replace("TRC2-2008", "X"), "the story at line 1 has no date"),
        (story(0, "2008-99-10 14:07:45 x").replace("TRC2-2008-08", "TRC2-2008-88"), "line 1 has no date"),
    ],
)
def test_broken_structure_is_refused_with_line_and_remedy(tmp_path: Path, content: str, said: str) -> None:
    for part_bytes in (1, 50, 10_000):
        with pytest.raises(InvalidDataError, match=said) as caught:
            read(source(tmp_path, content), part_bytes)
        assert (caught.value.field, caught.value.reason) == ("dataset.uri", "corpus_malformed")
        assert caught.value.remedy


@pytest.mark.parametrize("packed", [False, True])
def test_broken_stories_are_bad_records_where_some_may_be(tmp_path: Path, packed: bool) -> None:
    """Of a story that is never closed the next one is still read; the lines are those of the whole file."""
    content = (
        story(0)
        + story(1, docno=False)
        + story(2).replace("</DOC>\n", "")
        + story(3).replace("</DOC>\n", "")
        + story(4)
        + "closed\n</DOC>\n"
        + story(5, "no stamp").replace("TRC2-2008", "X")
        + story(6).replace("</DOC>\n", "")
        + story(7, docno=False)
        + story(8)
    )
    path = tmp_path / ("corpus.gz" if packed else "corpus")
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    lines = content.splitlines()
    closings = [number for number, line in enumerate(lines, start=1) if line == "</DOC>"]
    opened = [number for number, line in enumerate(lines, start=1) if line == "<DOC>"]
    for part_bytes in (1, 50, 10_000):
        reader = trc2.Trc2Source(path, reading=ReadingSpec(max_bad_records=9))
        records = [record for part in reader.parts(part_bytes=part_bytes) for record in reader.read(part)]
        assert [one.id[-4:] if isinstance(one, Document) else (one.number, one.cause) for one in records] == [
            "0000",
            (opened[1], "the story has no <DOCNO>"),
            (opened[2], "the <DOC> is never closed"),
            (opened[3], "the <DOC> is never closed"),
            "0004",
            (closings[3], "the </DOC> closes a story that was not opened"),
            (opened[5], "the story has no date, neither before its headline nor in its id b'X-08-10-0005'"),
            (opened[6], "the <DOC> is never closed"),
            (opened[7], "the story has no <DOCNO>"),
            "0008",
        ]
    with pytest.raises(InvalidDataError, match=f"the story at line {opened[1]} has no <DOCNO>"):
        read(trc2.Trc2Source(path))


@pytest.mark.parametrize(
    "broken",
    [
        story(1, docno=False),
        story(1).replace("</DOC>\n", "") + story(2),
        story(1, "no stamp").replace("TRC2-2008", "X"),
    ],
)
def test_text_before_a_broken_story_is_counted_once(tmp_path: Path, broken: str) -> None:
    (tmp_path / "corpus").write_text(f"{story(0)}between\n\nand\n{broken}{story(3)}after\n")
    for part_bytes in (1, 50, 10_000):
        reader = trc2.Trc2Source(tmp_path / "corpus", reading=ReadingSpec(max_bad_records=9))
        records = [record for part in reader.parts(part_bytes=part_bytes) for record in reader.read(part)]
        assert sum(not isinstance(record, Document) for record in records) == 1
        assert reader.stray_lines == 3


def test_what_concerns_the_whole_file_fails_whatever_may_be_bad(tmp_path: Path) -> None:
    for content, said in ((story(0) + story(1)[:-8], "never closed"), ("date,headline\n" * 9, "not a TRC2 file")):
        source(tmp_path, content)
        reader = trc2.Trc2Source(tmp_path / "corpus", reading=ReadingSpec(max_bad_records=9))
        with pytest.raises(InvalidDataError, match=said):
            read(reader)


def test_a_story_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trc2, "_MAX_STORY_BYTES", 1000)
    monkeypatch.setattr(trc2, "_BLOCK_BYTES", 100)
    cases = {"<DOC>\n": "line 1 is not closed within 1000", "": "not a TRC2 file", story(0): "9 there are 1000 bytes"}
    for start, said in cases.items():
        for part_bytes in (90, 10_000):
            with pytest.raises(InvalidDataError, match=said):
                read(source(tmp_path, start + "word\n" * 1000 + "</DOC>\n"), part_bytes)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_of_nothing_has_no_documents(tmp_path: Path, content: str) -> None:
    assert read(source(tmp_path, content)) == []
