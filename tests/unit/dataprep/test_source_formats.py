"""What each source makes of its files. The records that are none are in test_bad_records."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from corpus_formats import WRITERS, write, write_csv, write_hf, write_jsonl
from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources import open_source
from regraft_dataprep.sources.base import Inventory, Source


def opened(name: str, uri: object, **reading: Any) -> Source:
    return open_source(name, uri=uri, reading=ReadingSpec.model_validate(reading))  # type: ignore[arg-type]


def documents(source: Source) -> list[Document]:
    found = [record for part in source.parts() for record in source.read(part)]
    assert all(isinstance(record, Document) for record in found)
    return found  # type: ignore[return-value]


def texts(source: Source) -> list[str]:
    return [document.text for document in documents(source)]


@pytest.mark.parametrize("name", WRITERS)
def test_fields_become_text_id_and_date(tmp_path: Path, name: str) -> None:
    rows = [
        {"head": "Oil", "body": "Oil rose.\nMuch.", "key": "b", "day": "2009-02-03T04:05:06.7+02:00"},
        {"head": " ", "body": "Only body, é", "key": "a", "day": "2009-02-03"},
        {"head": "", "body": "\n ", "key": "c", "day": "2009-02-03T04:05:06Z"},
    ]
    source = opened(name, write(name, tmp_path, rows), text_key=["head", "body"], id_key="key", date_key="day")
    assert documents(source) == [
        Document("Oil\nOil rose.\nMuch.", "b", datetime(2009, 2, 3, 2, 5, 6)),
        Document("Only body, é", "a", datetime(2009, 2, 3)),
        Document("", "c", datetime(2009, 2, 3, 4, 5, 6)),
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_ids_and_dates_that_are_not_asked_for_are_not_there(tmp_path: Path, name: str) -> None:
    path = write(
        name, tmp_path, [{"text": " \n" if number == 2 else f"t{number}", "id": number} for number in range(4)]
    )
    assert documents(opened(name, path, text_key="text")) == [Document(text) for text in ("t0", "t1", "", "t3")]


def test_json_lines_are_read_plain_and_packed(tmp_path: Path) -> None:
    lines = '\ufeff{"text": "é"}\r\n\n{"text": "b", "more": [1, {}]}'.encode()
    (tmp_path / "1.jsonl").write_bytes(lines)
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "3.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "4.json.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "5.json").write_bytes(b"[")
    source = opened("jsonl", str(tmp_path))
    assert texts(source) == ["é", "b"] * 4


def test_csv_has_date_headline_and_story_by_default(tmp_path: Path) -> None:
    rows = [{"story": 'He said "no",\nthen left.', "date": "2008-01-02", "headline": "Héad", "other": "x"}]
    source = opened("csv", write_csv(tmp_path / "a.csv", rows))
    assert documents(source) == [Document('Héad\nHe said "no",\nthen left.', timestamp=datetime(2008, 1, 2))]
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfheadline,story\r\nH,S\r\n\r\n")
    assert documents(opened("csv", tmp_path / "b.csv")) == [Document("H\nS")]


def test_csv_fields_may_be_long(tmp_path: Path) -> None:
    source = opened("csv", write_csv(tmp_path / "a.csv", [{"headline": "", "story": "word " * 100_000}]))
    assert len(texts(source)[0]) == 500_000


def test_text_is_a_document_per_file_or_per_paragraph(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\n\none\nmore\n \t\n\r\ntwo\r\nmore\r\n\n\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("drei é".encode()))
    assert texts(opened("text", tmp_path)) == ["one\nmore\n \t\n\r\ntwo\r\nmore", "drei é"]
    assert texts(opened("text", tmp_path, documents="paragraph")) == ["one\nmore", "two\r\nmore", "drei é"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2008, 1, 2, 3, 4, 5, 678), "2008-01-02T03:04:05"),
        (datetime(2008, 1, 2, 3, 4, 5, tzinfo=UTC), "2008-01-02T03:04:05"),
        (date(2008, 1, 2), "2008-01-02T00:00:00"),
    ],
)
@pytest.mark.parametrize("name", ["parquet", "huggingface"])
def test_columns_of_times_need_no_text(tmp_path: Path, name: str, value: object, expected: str) -> None:
    path = write(name, tmp_path, [{"text": "a", "when": value, "n": 7}])
    (document,) = documents(opened(name, path, date_key="when", id_key="n"))
    assert document == Document("a", "7", datetime.fromisoformat(expected))


def test_nanoseconds_zones_and_dictionaries_of_parquet_are_read(tmp_path: Path) -> None:
    stamp = pa.array([1_199_243_045_000_000_001], pa.timestamp("ns", tz="Europe/Berlin"))
    table = pa.table({"text": pa.array(["a"]).dictionary_encode(), "when": stamp})
    pq.write_table(table, tmp_path / "a.parquet")
    assert documents(opened("parquet", tmp_path, date_key="when")) == [
        Document("a", timestamp=datetime(2008, 1, 2, 3, 4, 5))
    ]


def test_a_saved_dataset_is_what_its_state_names(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "ds", [{"text": f"t{number}"} for number in range(9)], shards=3)
    shutil.copy(folder / "data-00000-of-00003.arrow", folder / "cache-0123.arrow")
    source = opened("huggingface", folder)
    assert texts(source) == [f"t{number}" for number in range(9)]
    assert source.inventory().bytes == sum(path.stat().st_size for path in folder.glob("data-*.arrow"))
    (folder / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(InvalidDataError, match="files that are not there: data-00001-of-00003"):
        opened("huggingface", folder)


def test_the_splits_of_a_dataset_dict_follow_one_another_in_its_order(tmp_path: Path) -> None:
    for split in ("train", "test", "extra"):
        write_hf(tmp_path / split, [{"text": split}], shards=1)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "extra"]}))
    source = opened("huggingface", tmp_path)
    assert texts(source) == ["train", "test", "extra"]
    assert texts(opened("huggingface", [tmp_path / "test", tmp_path / "train"])) == ["test", "train"]
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(InvalidDataError, match="splits that are not there: test"):
        opened("huggingface", tmp_path)


@pytest.mark.parametrize("content", ["no", "[]"])
def test_a_broken_state_is_named(tmp_path: Path, content: str) -> None:
    folder = write_hf(tmp_path / "ds", [{"text": "a"}])
    (folder / "state.json").write_text(content)
    with pytest.raises(InvalidDataError, match="not whole") as caught:
        opened("huggingface", folder)
    assert caught.value.value == str(folder / "state.json")


@pytest.mark.parametrize("name", ["csv", "parquet", "huggingface"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    path = write(name, tmp_path, [{"body": "a", "day": "2008-01-01"}])
    with pytest.raises(InvalidDataError, match=r"column 'x', 'y'; it has 'body', 'day'") as caught:
        texts(opened(name, path, text_key="x", id_key="y"))
    assert (caught.value.field, caught.value.reason) == ("dataset.uri", "corpus_malformed")
    assert str(path) in str(caught.value.value)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"text " * 50])
@pytest.mark.parametrize("name", ["parquet", "huggingface"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, damage: Any) -> None:
    path = write(name, tmp_path, [{"text": "word " * 100} for _ in range(100)])
    file = path / "data-00001-of-00002.arrow" if path.is_dir() else path
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InvalidDataError, match="broken, cut off or of another format") as caught:
        texts(opened(name, path))
    assert caught.value.value == str(file)


def test_several_trc2_files_packed_or_not_are_one_corpus(tmp_path: Path, corpus: Path) -> None:
    stories = corpus.read_bytes().split(b"</DOC>\n")
    (tmp_path / "1.trc2").write_bytes(b"</DOC>\n".join([*stories[:100], b""]))
    (tmp_path / "2.trc2.gz").write_bytes(gzip.compress(b"</DOC>\n".join(stories[100:]) + b"stray\n"))
    (tmp_path / "3.v2").write_bytes(b"")
    source = opened("trc2", tmp_path)
    assert documents(source) == documents(opened("trc2", corpus))
    assert source.stray_lines == 1
    (tmp_path / "3.v2").write_bytes(b"<DOC>\n<DOCNO>X</DOCNO>\n</DOC>\n")
    with pytest.raises(InvalidDataError, match="line 1 has no date") as caught:
        documents(source)
    assert caught.value.value == str(tmp_path / "3.v2")


def test_the_digest_follows_bytes_and_order_and_not_names(tmp_path: Path) -> None:
    one, two, same = (write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name[0]}]) for name in ("a", "b", "ab"))
    digests = [opened("jsonl", uris).inventory().sha256 for uris in ([one, two], [same, two], [two, one], one, same)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[3] == digests[4]
    assert len(set(digests)) == 3


def test_the_digest_of_several_files_is_that_of_their_digests(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{number}.jsonl", [{"text": "a" * number}]) for number in range(20)]
    each = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    size = sum(path.stat().st_size for path in paths)
    whole = hashlib.sha256("\n".join(each).encode()).hexdigest()
    assert opened("jsonl", paths).inventory() == Inventory(whole, size, 20, tuple(each))
    assert opened("jsonl", paths[3]).inventory().sha256 == each[3]


def test_a_saved_dataset_without_files_is_refused(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "ds", [{"text": "a"}])
    (folder / "state.json").write_text("{}")
    with pytest.raises(InvalidDataError, match="no document") as caught:
        opened("huggingface", folder)
    assert caught.value.reason == "corpus_empty"
