"""`documents.parquet`: every window can be traced to its stories, and every story to what became of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from regraft.hdf5 import Dataset
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep import documents
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources
from regraft_dataprep.tokenize import load_tokenizer

Stories = list[dict[str, Any]]
SMALL = 2000
"""Bytes of a part: a corpus is several of them."""


def word(number: int) -> str:
    return f"{['oil', 'gold', 'bank', 'news', 'shares'][number % 5]}{number}"


def stories(count: int, *, start: int = 0) -> Stories:
    return [
        {
            "id": f"story {number}",
            "date": f"2008-01-{(number * 7) % 28 + 1:02d}T10:00:00Z",
            "text": " ".join(word(number * 1000 + at) for at in range(number % 30 + 1)),
        }
        for number in range(start, start + count)
    ]


def written(path: Path, found: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(story) + "\n" for story in found))
    return path


def prepared(
    corpus: Path, tokenizer: Path, out: Path, *, part_bytes: int = SMALL, keys: bool = True, **options: Any
) -> Path:
    reading = {"id_key": "id", "date_key": "date"} if keys else {}
    spec = {"source": "jsonl", "uri": str(corpus), "reading": reading, "max_sequence_length": 16, **options}
    task = PrepareTask(
        dataset=DatasetSpec.model_validate(spec),
        tokenizer_uri=str(tokenizer),
        vocab_size=512,
        output_uri=str(out),
    )
    return local_path(prepare(task, resources=Resources(processes=1, part_bytes=part_bytes)).uri)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "documents.parquet").to_pylist()


def stream_of(folder: Path, split: str) -> list[int]:
    """All tokens of a split, put together again out of its windows."""
    with Dataset(folder / split) as dataset:
        block = dataset.rows(range(len(dataset)))
    counts = block[:, 1] == 1
    return [int(block[0, 0, 0]), *block[:, 2][counts].tolist()]


def check_traced(folder: Path, tokenizer: Path, texts: dict[str, str]) -> None:
    """At the place that is named for it stands each story, and nothing stands anywhere else."""
    encoder = load_tokenizer(str(tokenizer))
    streams = {split: stream_of(folder, split) for split in ("train", "eval")}
    covered = {split: np.zeros(len(stream), dtype=int) for split, stream in streams.items()}
    for row in rows_of(folder):
        if row["split"]:
            tokens = streams[row["split"]][row["start"] : row["start"] + row["tokens"]]
            covered[row["split"]][row["start"] : row["start"] + row["tokens"]] += 1
            assert tokens[-1] == encoder.eos_id
            assert encoder.tokenizer.decode(tokens[:-1], skip_special_tokens=False) == texts[row["id"]]
            assert row["characters"] == len(texts[row["id"]])
    assert all((count == 1).all() for count in covered.values())


def test_every_token_of_every_window_is_traced_to_its_story(tmp_path: Path, tokenizer_dir: Path) -> None:
    found = stories(70)
    found[3]["text"] = "caf\u00c3\u00a9 &amp; more of it"
    texts = {story["id"]: story["text"] for story in found} | {"story 3": "caf\u00e9 & more of it"}
    folder = prepared(written(tmp_path / "corpus.jsonl", found), tokenizer_dir, tmp_path / "out")
    rows = rows_of(folder)
    assert [row["id"] for row in rows] == [story["id"] for story in found]
    assert [row["timestamp"] for row in rows] == [datetime.fromisoformat(story["date"][:-1]) for story in found]
    assert {row["split"] for row in rows} == {"train", "eval"}
    assert {row["dropped_by"] for row in rows} == {None}
    check_traced(folder, tokenizer_dir, texts)


def test_the_check_notices_a_place_that_is_off_by_one(tmp_path: Path, tokenizer_dir: Path) -> None:
    found = stories(40)
    texts = {story["id"]: story["text"] for story in found}
    folder = prepared(written(tmp_path / "corpus.jsonl", found), tokenizer_dir, tmp_path / "out")
    check_traced(folder, tokenizer_dir, texts)
    table = pq.read_table(folder / "documents.parquet")
    place = table.schema.get_field_index("start")
    moved = [None if start is None else start + 1 for start in table.column("start").to_pylist()]
    pq.write_table(table.set_column(place, table.schema.field(place), [moved]), folder / "documents.parquet")
    with pytest.raises(AssertionError):
        check_traced(folder, tokenizer_dir, texts)


def test_what_was_dropped_says_by_which_step(tmp_path: Path, tokenizer_dir: Path) -> None:
    found = stories(30)
    long = found[29]["text"]
    found += [
        {"id": "short", "date": "2008-01-01", "text": "x"},
        {"id": "none", "date": "2008-01-01", "text": ""},
        {"id": "again", "date": "2008-01-01", "text": long},
        {"id": "nearly", "date": "2008-01-01", "text": long + " end"},
    ]
    folder = prepared(
        written(tmp_path / "corpus.jsonl", found),
        tokenizer_dir,
        tmp_path / "out",
        cleaning=[{"length": {"min_characters": 2}}, "drop_duplicates", {"drop_near_duplicates": {"threshold": 0.8}}],
    )
    rows = {row["id"]: row for row in rows_of(folder)}
    assert {name: row["dropped_by"] for name, row in rows.items() if row["dropped_by"]} == {
        "short": "length",
        "again": "drop_duplicates",
        "nearly": "drop_near_duplicates",
    }
    assert all((row["split"], row["start"]) == (None, None) for row in rows.values() if row["dropped_by"])
    assert "none" not in rows  # without any text it is no document


def test_held_out_stories_that_are_like_one_trained_on_are_named(tmp_path: Path, tokenizer_dir: Path) -> None:
    trained, held_out = stories(30), stories(10, start=50)
    held_out[4] = {**held_out[4], "text": trained[29]["text"] + " end"}
    corpus = written(tmp_path / "corpus.jsonl", trained)
    apart = written(tmp_path / "apart.jsonl", held_out)
    folder = prepared(corpus, tokenizer_dir, tmp_path / "out", validation={"uri": str(apart)})
    rows = rows_of(folder)
    assert [row["split"] for row in rows] == ["train"] * 30 + ["eval"] * 4 + [None] + ["eval"] * 5
    assert rows[34]["dropped_by"] == "near_duplicate_of_train"
    check_traced(folder, tokenizer_dir, {story["id"]: story["text"] for story in trained + held_out})


def test_stories_without_names_and_dates_have_none(tmp_path: Path, tokenizer_dir: Path) -> None:
    found = [{"text": story["text"]} for story in stories(20)]
    folder = prepared(written(tmp_path / "corpus.jsonl", found), tokenizer_dir, tmp_path / "out", keys=False)
    rows = rows_of(folder)
    assert {row["timestamp"] for row in rows} == {None}
    assert [row["characters"] for row in rows] == [len(story["text"]) for story in found]


def test_the_file_does_not_depend_on_how_the_corpus_was_cut(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_GROUP", 7)
    corpus = written(tmp_path / "corpus.jsonl", stories(50))
    contents = set()
    for size in (700, SMALL, 10**6):
        folder = prepared(corpus, tokenizer_dir, tmp_path / str(size), part_bytes=size)
        assert pq.ParquetFile(folder / "documents.parquet").num_row_groups == 8
        contents.add((folder / "documents.parquet").read_bytes())
    assert len(contents) == 1
