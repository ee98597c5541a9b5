"""The TRC2 reader."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from regraft.errors import InvalidDataError
from regraft_dataprep.sources import _columns, trc2


def story(
    number: int = 0, text: str = "2008-08-10 14:07:45 OIL RISES\n\nLONDON - Oil rose.", *, docno: bool = True
) -> str:
    name = f"<DOCNO>TRC2-2008-08-10-{number:04d}</DOCNO>\n" if docno else ""
    return f"<DOC>\n{name}<BLOGS08DAY>295</BLOGS08DAY>\n<CONTENT>\n{text}\n</CONTENT>\n</DOC>\n"


def source(tmp_path: Path, content: str | bytes) -> trc2.Trc2Source:
    path = tmp_path / "corpus"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return trc2.Trc2Source(path)


def test_a_scan_knows_bytes_times_ids_and_which_stories_have_text(tmp_path: Path) -> None:
    content = story(0) + story(1, "2008-08-09 00:00:01 ") + story(2, "no stamp here")
    scan = source(tmp_path, content).scan()
    assert scan.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert (scan.bytes, scan.stories, scan.stray_lines) == (len(content), 3, 0)
    assert scan.ids.tolist() == [f"TRC2-2008-08-10-000{number}".encode() for number in range(3)]
    times = ["2008-08-10T14:07:45", "2008-08-09T00:00:01", "2008-08-10T00:00:00"]  # the last one from its id
    np.testing.assert_array_equal(scan.timestamps, np.array(times, dtype="datetime64[s]"))
    assert scan.has_text.tolist() == [True, False, True]


def test_one_document_per_story_in_file_order_empty_ones_too(tmp_path: Path) -> None:
    documents = list(source(tmp_path, story(5) + story(4, "2008-08-09 00:00:01 ")).documents())
    assert [document.id for document in documents] == ["TRC2-2008-08-10-0005", "TRC2-2008-08-10-0004"]
    assert [document.text for document in documents] == ["OIL RISES\n\nLONDON - Oil rose.", ""]
    assert documents[0].metadata == {"timestamp": "2008-08-10T14:07:45"}


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_the_size_of_the_blocks_read_makes_no_difference(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    reader = trc2.Trc2Source(corpus)
    whole, documents = reader.scan(), list(reader.documents())
    small = corpus.parent / f"head-{size}"
    head = documents[:20] if size == 1 else documents
    content = corpus.read_bytes()
    small.write_bytes(b"</DOC>\n".join(content.split(b"</DOC>\n")[: len(head)]) + b"</DOC>\n")
    monkeypatch.setattr(trc2, "_BLOCK_BYTES", size)
    monkeypatch.setattr(_columns, "_BLOCK", 3)
    blocks = trc2.Trc2Source(small)
    assert list(blocks.documents()) == head
    np.testing.assert_array_equal(blocks.scan().timestamps, whole.timestamps[: len(head)])
    np.testing.assert_array_equal(blocks.scan().has_text, [bool(document.text) for document in head])


def test_windows_line_ends_and_a_missing_last_newline_are_read(tmp_path: Path) -> None:
    content = (story(0) + story(1)).replace("\n", "\r\n").rstrip()
    assert source(tmp_path, content).scan().stories == 2


def test_text_outside_of_stories_is_counted(tmp_path: Path) -> None:
    scan = source(tmp_path, f"prologue\n{story(0)}\nbetween\n\n{story(1)}after\n").scan()
    assert (scan.stories, scan.stray_lines) == (2, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("date,headline\n2008,Oil\n" * 10, "this is not a TRC2 file: no line <DOC>"),
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
    for read in (lambda s: s.scan(), lambda s: list(s.documents())):
        with pytest.raises(InvalidDataError, match=said) as caught:
            read(source(tmp_path, content))
        assert (caught.value.field, caught.value.reason) == ("dataset.uri", "corpus_malformed")
        assert caught.value.remedy


def test_a_story_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trc2, "_MAX_STORY_BYTES", 1000)
    monkeypatch.setattr(trc2, "_BLOCK_BYTES", 100)
    cases = {"<DOC>\n": "line 1 is never closed", "": "not a TRC2 file", story(0): "without a story"}
    for start, said in cases.items():
        with pytest.raises(InvalidDataError, match=said):
            source(tmp_path, start + "word\n" * 1000).scan()


@pytest.mark.parametrize("content", ["", "\n \n", story(0, "2008-08-10 14:07:45 ")])
def test_a_corpus_without_text_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidDataError) as caught:
        source(tmp_path, content).scan()
    assert (caught.value.field, caught.value.reason) == ("dataset.uri", "corpus_empty")
    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy
