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
from regraft_dataprep.resources import Resources
from regraft_dataprep.sources import csv, jsonl, open_source
from regraft_dataprep.sources.base import BadRecord, Part, Source, too_many
from unit.dataprep.test_pipeline import task

GOOD = '{"text": "good"}\n'


def opened(name: str, path: Path, **reading: Any) -> Source:
    return open_source(name, uri=path, reading=ReadingSpec.model_validate(reading))


def records(source: Source) -> list[Document | BadRecord]:
    return [record for part in source.parts() for record in source.read(part)]


def causes(name: str, path: Path, **reading: Any) -> list[str]:
    return [str(record) for record in records(opened(name, path, **reading)) if isinstance(record, BadRecord)]


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
        (b'{"text": "\xed\xa0\x80"}', "it is no JSON in UTF-8: "),
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
    texts = [record.text for record in records(opened("csv", path)) if isinstance(record, Document)]
    assert texts == ["H\ntwo\nlines", "good\ngood"]


def test_a_row_of_csv_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "_MAX_ROW_CHARACTERS", 30)
    path = tmp_path / "a.csv"
    rows = ["good,good", "short," + "x" * 100, "a,b", '"' + "ten more\n" * 3 + 'end",c', '"many",' * 9, "good,good"]
    path.write_text("\n".join(["headline,story", *rows, ""]))
    said = causes("csv", path)
    assert [line.split(":")[0] for line in said] == [f"a.csv, line {number}" for number in (3, 8, 9)]
    assert all("the row is longer than 30 characters" in line for line in said)
    texts = [record.text for record in records(opened("csv", path)) if isinstance(record, Document)]
    assert texts == ["good\ngood", "a\nb", "good\ngood"]


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


def test_too_many_names_the_last_and_the_option() -> None:
    error = too_many(3, 2, BadRecord("b.jsonl", 3, "it is no JSON"))
    assert (error.field, error.value, error.reason) == ("dataset.uri", "b.jsonl", "too_many_bad_records")
    assert error.message == "3 records cannot be read and 2 may be; the last is b.jsonl, line 3: it is no JSON"
    assert "max_bad_records" in error.remedy


class _Two(Source):
    """The least that a source has to be."""

    suffixes = (".two",)

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        yield Document("text")
        yield BadRecord(self.files[part.file].name, 2, "it never works")


def test_a_source_needs_no_more_than_read(tmp_path: Path) -> None:
    for name in ("x.two", "y.two"):
        (tmp_path / name).write_bytes(b"123")
    source = _Two(tmp_path)
    assert source.parts(part_bytes=1) == [Part(0), Part(1)]
    assert [str(record) for record in source.read(Part(1))][1] == "y.two, line 2: it never works"
    assert (source.inventory().bytes, source.inventory().files) == (6, 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_records_are_counted_over_all_parts_and_named_by_their_place_in_the_file(
    tokenizer_dir: Path, tmp_path: Path, recorder: Any, processes: int
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, bad in (("a", (7, 150)), ("b", (99,))):
        rows = [{"text": f"story {name} {number} " + f"{number * 7919} " * 30} for number in range(160)]
        lines = write_jsonl(folder / f"{name}.jsonl", rows).read_text().splitlines(keepends=True)
        for number in bad:
            lines[number - 1] = "bad\n"
        (folder / f"{name}.jsonl").write_text("".join(lines))
    resources = Resources(processes=processes, part_bytes=5_000)
    with pytest.raises(InvalidDataError, match=r"3 records .* 2 may be; the last is b\.jsonl, line 99") as caught:
        prepare(task(folder, tokenizer_dir, tmp_path / "out", source="jsonl", reading={"max_bad_records": 2}))
    assert caught.value.reason == "too_many_bad_records"
    allowed = task(folder, tokenizer_dir, tmp_path / "out", source="jsonl", reading={"max_bad_records": 3})
    result = prepare(allowed, recorder, resources=resources)
    places = ["a.jsonl, line 7: ", "a.jsonl, line 150: ", "b.jsonl, line 99: "]
    told = recorder.told["3 records cannot be read and are left out"]["first"]
    assert [any(line.startswith(place) for line in told) for place in places] == [True] * 3
    report = json.loads((local_path(result.uri) / "corpus_report.json").read_text())
    found = [f"{one['file']}, {one['unit']} {one['number']}: " for one in report["bad_records_first"]]
    assert (found, report["documents_in"]) == (places, 317)


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
    with pytest.raises(InvalidDataError, match=r"1 records cannot be read and 0 may be; the last is a\.jsonl, line 1"):
        prepare(task(path, tokenizer_dir, tmp_path / "out", source="jsonl"))  # though the dataset is there
