"""Records that are no documents: counted, reported, and refused past the limit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus_formats import write, write_jsonl
from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft.storage import local_path
from regraft_dataprep.document import Document
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.sources import jsonl, open_source
from regraft_dataprep.sources._files import File
from regraft_dataprep.sources.base import BadRecord, Source
from unit.dataprep.test_pipeline import task

GOOD = '{"text": "good"}\n'


def opened(name: str, path: Path, **reading: Any) -> Source:
    return open_source(name, uri=path, reading=ReadingSpec.model_validate(reading))


def causes(name: str, path: Path, **reading: Any) -> list[str]:
    """What the scan says of bad records, once both passes agree on the others."""
    source = opened(name, path, **{"max_bad_records": 99, **reading})
    scan = source.scan()
    assert len(list(source.documents())) == scan.stories
    assert scan.bad.total == len(scan.bad.first)
    return [str(record) for record in scan.bad.first]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"text": "cut', "it is no JSON in UTF-8: "),
        (b'{"text": "caf\xe9"}', "it is no JSON in UTF-8: "),
        (b'["text"]', "it is no JSON object but of type list"),
        (b"null", "it is no JSON object but of type NoneType"),
        (b"[" * 100_000, "it is no JSON in UTF-8: "),
        (b'{"body": "x"}', "it has no 'text'"),
        (b'{"text": null}', "'text' is empty, not a text"),
        (b'{"text": 5}', "'text' is of type int, not a text"),
        (rb'{"text": "\ud800"}', "it is no JSON in UTF-8: "),
    ],
)
def test_a_bad_line_is_named_with_its_cause(tmp_path: Path, line: bytes, cause: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode())
    (said,) = causes("jsonl", path)
    assert said.startswith(f"a.jsonl, line 3: {cause}")


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [
        ("id", None, "the id is empty, not a text or a whole number"),
        ("id", "", "the id is empty"),
        ("id", True, "the id is of type bool"),
        ("id", "é" * 200, "the id is longer than 255 bytes"),
        ("id", "\ud800", "it is no JSON in UTF-8: "),
        ("day", "2008-13-01", "the date '2008-13-01' is no ISO 8601 date or time"),
        ("day", "0001-01-01T00:00:00+01:00", "the date '0001-01-01T00:00:00+01:00' is no"),
        ("day", None, "the date is empty, not an ISO 8601 date or time"),
        ("day", 1_199_243_045, "the date is of type int"),
    ],
)
def test_a_bad_id_or_date_makes_a_bad_record(tmp_path: Path, field: str, value: object, cause: str) -> None:
    rows = [{"text": "a", "id": "1", "day": "2008-01-01"}, {"text": "b", "id": "2", "day": "2008-01-01", field: value}]
    (said,) = causes("jsonl", write_jsonl(tmp_path / "a.jsonl", rows), id_key="id", date_key="day")
    assert said.startswith(f"a.jsonl, line 2: {cause}")


def test_a_line_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_MAX_LINE_BYTES", 20)
    path = tmp_path / "a.jsonl"
    for end in ("\n", ""):
        path.write_text(GOOD + GOOD[:-1] + " " * 100 + end)
        assert causes("jsonl", path) == ["a.jsonl, line 2: the line is longer than 20 bytes"]


def test_bad_rows_of_csv_are_named_by_the_line_they_end_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = ['H,"two\nlines"', "H,one,more", "H", 'H,"a"b', "H,caf\udce9", "good,good", 'H,"open\nto the end']
    path.write_bytes("\n".join(["headline,story", *rows]).encode("utf-8", "surrogateescape"))
    said = causes("csv", path)
    assert [line.split(":")[0] for line in said] == [f"a.csv, line {number}" for number in (4, 5, 6, 7, 10)]
    assert "it has 3 fields and the header 2" in said[0]
    assert "it is no CSV" in said[2]
    assert "'story' is not valid UTF-8" in said[3]
    assert "unexpected end of data" in said[4]
    assert [document.text for document in opened("csv", path, max_bad_records=5).documents()] == [
        "H\ntwo\nlines",
        "good\ngood",
    ]


@pytest.mark.parametrize(
    ("documents", "said"), [("paragraph", "a.txt, line 4: it is not"), ("file", "a.txt, line 1: it is not")]
)
def test_text_that_is_no_utf8_is_bad(tmp_path: Path, documents: str, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"\ngood\n\nbad \xff\nmore\n\ngood")
    (tmp_path / "b.txt").write_bytes(b"good")
    (found,) = causes("text", tmp_path, documents=documents)
    assert found.startswith(said)


@pytest.mark.parametrize("name", ["parquet", "huggingface"])
def test_bad_rows_are_named_by_their_number_in_the_file(tmp_path: Path, name: str) -> None:
    path = write(name, tmp_path, [{"text": None if number in (3, 17) else "t"} for number in range(20)])
    first, second = causes(name, path)
    if name == "parquet":
        assert (first, second) == tuple(
            f"stories.parquet, row {number}: 'text' is empty, not a text" for number in (4, 18)
        )
    else:
        assert first.startswith("data-00000-of-00002.arrow, row 4: ")
        assert second.startswith("data-00001-of-00002.arrow, row 8: ")


def test_broken_utf8_in_a_column_is_the_fault_of_one_row(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    (said,) = causes("parquet", tmp_path / "a.parquet")
    assert said.startswith("a.parquet, row 2: a value cannot be read: 'utf-8' codec")


def test_the_first_one_too_many_fails_both_passes_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD + "bad\n")
    (tmp_path / "b.jsonl").write_text(GOOD + GOOD + "worse\n" + GOOD)
    assert opened("jsonl", tmp_path, max_bad_records=2).scan().bad.total == 2
    for limit, where in ((0, "a.jsonl, line 2: it is no JSON"), (1, "b.jsonl, line 3: it is no JSON")):
        source = opened("jsonl", tmp_path, max_bad_records=limit)
        for read in (source.scan, lambda source=source: list(source.documents())):
            with pytest.raises(InvalidDataError, match=where) as caught:
                read()
            assert caught.value.reason == "too_many_bad_records"
            assert (caught.value.field, caught.value.value) == ("dataset.uri", where.split(",")[0])
            assert f"{limit + 1} records cannot be read and {limit} may be" in caught.value.message
            assert "max_bad_records" in caught.value.remedy


def test_only_the_first_twenty_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD + "bad\n" * 30)
    bad = opened("jsonl", path, max_bad_records=30).scan().bad
    assert (bad.total, len(bad.first), bad.first[-1].number) == (30, 20, 21)


class _Two(Source):
    """The least that a source has to be."""

    suffixes = (".two",)

    def read_file(self, file: File) -> Iterator[Document | BadRecord]:
        yield Document("text", id="")
        yield BadRecord(file.name, 2, "it never works")


def test_a_source_needs_no_more_than_read_file(tmp_path: Path) -> None:
    (tmp_path / "x.two").write_bytes(b"123")
    source = _Two(tmp_path, reading=ReadingSpec(max_bad_records=1))
    scan = source.scan()
    assert (scan.stories, scan.bytes, str(scan.bad.first[0])) == (1, 3, "x.two, line 2: it never works")
    assert [document.id for document in source.documents()] == ["x.two:1"]


def test_bad_records_are_reported_with_the_dataset(tokenizer_dir: Path, tmp_path: Path, recorder: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"story {number} " * 20} for number in range(10)])
    path.write_text("bad\n" + path.read_text())
    with pytest.raises(InvalidDataError, match=r"a\.jsonl, line 1"):
        prepare(task(path, tokenizer_dir, tmp_path / "out", source="jsonl"))
    result = prepare(
        task(path, tokenizer_dir, tmp_path / "out", source="jsonl", reading={"max_bad_records": 1}), recorder
    )
    assert ("warn", "1 records cannot be read and are left out") in recorder.events
    report = json.loads((local_path(result.uri) / "corpus_report.json").read_text())
    assert (report["documents_in"], report["bad_records"]) == (10, 1)
    (record,) = report["bad_records_first"]
    assert (record["file"], record["number"], record["unit"]) == ("a.jsonl", 1, "line")
    assert record["cause"].startswith("it is no JSON")
    assert report["splits"]["train"]["first"] is None
