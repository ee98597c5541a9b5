"""Sources and the pipeline together: the same stories give the same tokens from whatever they are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from corpus_formats import WRITERS, Rows, write, write_jsonl
from regraft.errors import InvalidInputError
from regraft.hdf5 import Dataset
from regraft.specs.dataset import DatasetSpec
from regraft.storage import local_path, read_manifest
from regraft_dataprep import cli
from regraft_dataprep.pipeline import content_address, prepare
from regraft_dataprep.resources import Resources
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


def address(*, sha: str = "s", tokenizer: str = "t", **changes: Any) -> str:
    spec = DatasetSpec.model_validate({"uri": "u", **changes})
    return content_address(spec, source_sha256=sha, tokenizer_digest=tokenizer)


def test_the_address_follows_what_changes_the_bytes() -> None:
    different = [
        address(),
        address(sha="other"),
        address(tokenizer="other"),
        address(source="jsonl"),
        address(source="text"),
        address(source="text", reading={"documents": "paragraph"}),
        address(source="jsonl", reading={"text_key": "story"}),
        address(source="jsonl", reading={"id_key": "id"}),
        address(source="jsonl", reading={"date_key": "day"}),
        address(source="csv"),
        address(source="csv", reading={"text_key": "text"}),
        address(max_sequence_length=511),
        address(examples_per_file=49_999),
        address(validation={"fraction": 0.2}),
        address(validation={"order": "hashed"}),
        address(validation={"uri": "held out"}),
        address(validation={"near_duplicates": None}),
        address(validation={"near_duplicates": 0.9}),
        address(packing={"pack_sequences": False}),
        address(packing={"remainder": "drop"}),
        address(packing={"short_seq_prob": 0.1}),
        address(packing={"short_seq_prob": 0.1, "seed": 1}),
        address(packing={"document_boundaries": True}),
        address(cleaning=()),
        address(cleaning=["drop_empty", "fix_text", "drop_duplicates"]),
        address(cleaning=[{"length": {"min_characters": 5}}]),
        address(cleaning=[{"length": {"min_characters": 6}}]),
    ]
    assert len(set(different)) == len(different)
    assert all(len(name) == 32 for name in different)


def test_the_address_follows_nothing_else() -> None:
    same = [
        address(),
        address(uri="elsewhere"),
        address(max_sequence_length=512),
        address(tokenizer="t"),
        address(reading={"max_bad_records": 3}),
        address(require={"min_train_tokens": 10, "languages": ["en"]}),
    ]
    assert len(set(same)) == 1
    held_out = [address(validation={"uri": uri}) for uri in ("here", "there", ["here", "there"])]
    assert len(set(held_out)) == 1


def test_the_address_does_not_follow_what_has_no_effect_beside_other_options() -> None:
    assert address() == address(packing={"seed": 1})
    apart = {"pack_sequences": False}
    assert address(packing=apart) == address(packing={**apart, "seed": 1}) != address()
    files = [{"uri": "u"}, {"uri": "u", "fraction": 0.3}, {"uri": "u", "order": "hashed"}]
    assert len({address(validation=options) for options in files}) == 1
    assert address(validation={"uri": "u", "near_duplicates": None}) != address(validation={"uri": "u"})


@pytest.mark.parametrize(
    ("source", "reading"),
    [
        ("trc2", {"text_key": "story", "id_key": "id", "date_key": "day", "documents": "paragraph"}),
        ("text", {"text_key": "story", "id_key": "id", "date_key": "day"}),
        ("jsonl", {"text_key": "text", "documents": "paragraph"}),
        ("parquet", {"text_key": ["text"]}),
        ("huggingface", {"text_key": "text"}),
        ("csv", {"text_key": ["headline", "story"]}),
    ],
)
def test_the_address_does_not_follow_what_the_source_does_not_use(source: str, reading: dict[str, Any]) -> None:
    assert address(source=source, reading=reading) == address(source=source)


def test_the_address_follows_how_near_duplicates_are_sought_as_far_as_some_can_be_left() -> None:
    def found(dropped: float, *sought: float | None) -> list[str]:
        steps = [{"drop_near_duplicates": {"threshold": dropped}}]
        return [address(cleaning=steps, validation={"near_duplicates": one}) for one in sought]

    assert len(set(found(0.7, None, 0.7, 0.8, 1.0))) == 1
    assert len(set(found(0.9, None, 0.9, 1.0))) == 1
    assert len(set(found(0.9, None, 0.8, 0.5))) == 3


def test_neither_do_the_bytes(stories: Rows, tokenizer_dir: Path, tmp_path: Path) -> None:
    path, held_out = (write_jsonl(tmp_path / f"{name}.jsonl", stories[:20]) for name in ("a", "b"))
    options = {"source": "jsonl", "reading": {"text_key": "story"}}
    found = []
    for number, unused in enumerate(({}, {"fraction": 0.3, "order": "hashed"})):
        validation = {"uri": str(held_out), "near_duplicates": None, **unused}
        packing = {"seed": number}
        spec = task(path, tokenizer_dir, tmp_path / str(number), validation=validation, packing=packing, **options)
        manifest = read_manifest(local_path(prepare(spec).uri))
        assert manifest is not None
        found.append((manifest.address, [(entry.path, entry.sha256) for entry in manifest.files]))
    assert found[0] == found[1]


def test_the_address_follows_the_tokenizer_and_what_it_makes_of_special_tokens(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_dir, other)
    same = prepare(task(corpus, other, tmp_path / "out")).address
    (other / "tokenizer_config.json").write_text(json.dumps({"eos_token": "!"}))
    addresses = [
        prepare(task(corpus, tokenizer_dir, tmp_path / "out")).address,
        prepare(task(corpus, tokenizer_dir, tmp_path / "out", special_tokens="recognised")).address,
        prepare(task(corpus, other, tmp_path / "out")).address,
    ]
    (other / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    (other / "tokenizer.json").write_bytes((other / "tokenizer.json").read_bytes() + b" ")
    addresses.append(prepare(task(corpus, other, tmp_path / "out")).address)
    assert same == addresses[0]
    assert len(set(addresses)) == 4


def test_the_address_does_not_follow_what_the_run_may_use(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    first = prepare(task(corpus, tokenizer_dir, tmp_path / "a"))
    spec = task(corpus, tokenizer_dir, tmp_path / "b", vocab_size=9999)
    assert prepare(spec, resources=Resources(processes=1, part_bytes=20_000)).address == first.address


def test_the_address_follows_how_records_are_read_and_not_how_many_may_be_bad() -> None:
    def of(**reading: Any) -> str:
        return address(source="jsonl", reading=reading)

    assert of() == of(max_bad_records=9) == of(documents="file")
    assert of(text_key="a") == of(text_key=["a"])
    different = [
        of(),
        of(text_key="a"),
        of(text_key=["a", "b"]),
        of(id_key="a"),
        of(date_key="a"),
    ]
    assert len(set(different)) == 5


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
