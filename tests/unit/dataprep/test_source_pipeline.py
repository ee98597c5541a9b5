"""Sources and the pipeline together: the same stories give the same tokens from whatever they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from corpus_formats import WRITERS, Rows, write, write_jsonl
from regraft.errors import InvalidInputError
from regraft.hdf5 import Dataset
from regraft.specs.dataset import DatasetSpec
from regraft.storage import local_path
from regraft_dataprep import cli
from regraft_dataprep.pipeline import content_address, prepare
from regraft_dataprep.tokenize import load_tokenizer
from unit.dataprep.test_pipeline import stream, task

KEYS = {"text_key": ["headline", "story"], "date_key": "date"}


@pytest.fixture(scope="module")
def stories() -> Rows:
    """Not in the order of their dates, with what formats quote."""
    return [
        {
            "headline": f'Headline {number}, "quoted"',
            "story": f"Line one of {number}\nline two; é\n\n" + f"word{number} " * number,
            "date": f"2008-01-{(number * 7) % 28 + 1:02d}T10:00:00Z",
        }
        for number in range(40)
    ]


def arrays(path: Path, source: str, tokenizer: Path, out: Path, **reading: Any) -> list[np.ndarray[Any, Any]]:
    result = prepare(task(path, tokenizer, out / source, source=source, reading=reading))
    found = []
    for split in ("train", "eval"):
        with Dataset(local_path(result.uri) / split) as dataset:
            found.append(dataset.rows(range(len(dataset))))
    return found


def test_every_format_gives_the_same_arrays(stories: Rows, tokenizer_dir: Path, tmp_path: Path) -> None:
    found = [
        arrays(write(name, tmp_path, stories), name, tokenizer_dir, tmp_path / "out", **KEYS)
        for name in sorted(WRITERS)
    ]
    assert len(found) == 4
    for other in found[1:]:
        for left, right in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(left, right, strict=True)


def test_the_latest_are_held_out_and_of_undated_ones_the_last(
    stories: Rows, tokenizer_dir: Path, tmp_path: Path
) -> None:
    encoder = load_tokenizer(str(tokenizer_dir))
    path = write_jsonl(tmp_path / "a.jsonl", stories)
    by_date = sorted(range(40), key=lambda number: (stories[number]["date"], number))
    cases = (({"date_key": "date"}, sorted(by_date[-4:])), ({"id_key": "headline"}, [36, 37, 38, 39]))
    for keys, numbers in cases:
        spec = task(path, tokenizer_dir, tmp_path, source="jsonl", reading={"text_key": "story", **keys})
        expected = [
            token
            for ids in encoder.encode([stories[number]["story"] for number in numbers])
            for token in (*ids, encoder.eos_id)
        ]
        assert stream(local_path(prepare(spec).uri) / "eval") == expected


def test_several_addresses_are_one_corpus(stories: Rows, tokenizer_dir: Path, tmp_path: Path) -> None:
    for name, part in (("b", stories[:10]), ("a/c", stories[10:])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    whole = write_jsonl(tmp_path / "whole.jsonl", stories)
    uris = (str(tmp_path / "b.jsonl"), f"{tmp_path}/a/*.jsonl")
    spec = task(whole, tokenizer_dir, tmp_path / "1", source="jsonl", reading={"text_key": "story"})
    expected = prepare(spec)
    several = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"uri": uris})})
    result = prepare(several)
    assert result.documents == 40
    assert stream(local_path(result.uri) / "train") == stream(local_path(expected.uri) / "train")
    assert result.address != expected.address


def test_the_address_follows_how_records_are_read_and_not_how_many_may_be_bad() -> None:
    def address(**reading: Any) -> str:
        spec = DatasetSpec.model_validate({"uri": "u", "source": "jsonl", "reading": reading})
        return content_address(spec, source_sha256="s", tokenizer_digest="t")

    assert address() == address(max_bad_records=9) == address(documents="file")
    assert address(text_key="a") == address(text_key=["a"])
    different = [
        address(),
        address(text_key="a"),
        address(text_key=["a", "b"]),
        address(id_key="a"),
        address(date_key="a"),
        address(documents="paragraph"),
    ]
    assert len(set(different)) == 6


def test_the_command_line_has_every_option(
    stories: Rows, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(cli.prepare)
    uris = [write_jsonl(tmp_path / f"{number}.jsonl", part) for number, part in enumerate((stories[:9], stories[9:]))]
    uris[0].write_text("bad\n" + uris[0].read_text())
    arguments = [f"--uri={uri}" for uri in uris] + ["--source=jsonl", "--text-key=headline", "--text-key=story"]
    arguments += ["--id-key=headline", "--date-key=date", "--max-bad-records=1", "--documents=file"]
    arguments += [f"--tokenizer={tokenizer_dir}", f"--output-dir={tmp_path / 'out'}", "--max-sequence-length=64"]
    app(arguments, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["documents"] == 40
    for option, field in (
        ("--documents=page", "dataset.reading.documents"),
        ("--text-key=", "dataset.reading.text_key"),
        ("--uri=", "dataset.uri"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            app([*arguments, option], standalone_mode=False)
        assert caught.value.field == field
