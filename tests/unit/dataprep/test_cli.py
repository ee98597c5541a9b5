"""The two commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from corpus_formats import write_jsonl
from regraft.errors import InvalidInputError
from regraft.specs.dataset import DatasetSpec
from regraft.storage import is_published, local_path, read_manifest
from regraft_dataprep import cli


@pytest.fixture
def app() -> typer.Typer:
    program = typer.Typer()
    program.command("prepare")(cli.prepare)
    program.command("sample-trc2")(cli.sample_trc2)
    return program


def test_sample_and_prepare_run_without_a_server(app: typer.Typer, tmp_path: Path, tokenizer_dir: Path) -> None:
    corpus = tmp_path / "corpus"
    made = CliRunner().invoke(app, ["sample-trc2", "--stories", "40", "--seed", "3", "--output", str(corpus)])
    assert json.loads(made.stdout)["stories"] == 40
    options = {"--uri": corpus, "--tokenizer": tokenizer_dir, "--output-dir": tmp_path / "out"}
    options |= {"--max-sequence-length": 64, "--validation-fraction": 0.25, "--vocab-size": 512, "--source": "trc2"}
    arguments = [str(part) for pair in options.items() for part in pair]
    done = CliRunner().invoke(app, ["prepare", *arguments])
    result = json.loads(done.stdout)
    assert is_published(local_path(result["uri"]))
    assert (result["max_sequence_length"], result["cached"]) == (64, False)
    assert "documents" in done.stderr


def prepared(app: typer.Typer, *arguments: object) -> dict[str, object]:
    """What was asked for, as the manifest of the dataset has it."""
    done = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    assert done.exit_code == 0, done.exception
    manifest = read_manifest(local_path(json.loads(done.stdout)["uri"]))
    assert manifest is not None
    return DatasetSpec.model_validate(manifest.made_by["dataset"]).model_dump(exclude_defaults=True)


def test_every_option_has_its_place_in_the_dataset(
    app: typer.Typer, tmp_path: Path, tokenizer_dir: Path, corpus: Path
) -> None:
    rows = [{"t": f"story {number} {number * 7919}", "i": str(number), "d": "2008-01-01"} for number in range(60)]
    uri, other = write_jsonl(tmp_path / "a.jsonl", rows[:40]), write_jsonl(tmp_path / "b.jsonl", rows[40:])
    common = ["--tokenizer", tokenizer_dir, "--output-dir", tmp_path / "out", "--max-sequence-length", 16]
    reading = ["--source", "jsonl", "--uri", uri, "--text-key", "t", "--id-key", "i", "--date-key", "d"]
    known = {"source": "jsonl", "uri": (str(uri),), "tokenizer": str(tokenizer_dir), "max_sequence_length": 16}
    known |= {"reading": {"text_key": "t", "id_key": "i", "date_key": "d"}}
    rest = ["--short-seq-prob", 0.25, "--remainder", "drop", "--document-boundaries", "--special-tokens", "recognised"]
    rest += ["--examples-per-file", 7, "--split", "hashed", "--validation-fraction", 0.5, "--near-duplicates", 0.95]
    packing = {"short_seq_prob": 0.25, "remainder": "drop", "document_boundaries": True}
    validation = {"order": "hashed", "fraction": 0.5, "near_duplicates": 0.95}
    assert prepared(app, *common, *reading, *rest, "--processes", 1) == known | {
        "packing": packing,
        "validation": validation,
        "special_tokens": "recognised",
        "examples_per_file": 7,
    }
    apart = ["--validation-uri", other, "--no-pack-sequences", "--max-bad-records", 3]
    assert prepared(app, *common, *reading, *apart) == known | {
        "reading": {**known["reading"], "max_bad_records": 3},
        "packing": {"pack_sequences": False},
        "validation": {"uri": (str(other),)},
    }


def test_a_file_gives_any_field_and_the_command_line_wins(
    app: typer.Typer, tmp_path: Path, tokenizer_dir: Path, corpus: Path
) -> None:
    options = tmp_path / "options.yaml"
    options.write_text(
        f"""
        uri: {corpus}
        tokenizer: {tokenizer_dir}
        max_sequence_length: 64
        cleaning: [fix_text, {{length: {{min_characters: 20}}}}]
        validation: {{fraction: 0.25, near_duplicates: null}}
        require: {{min_train_tokens: 100}}
        """
    )
    found = prepared(app, "--options", options, "--output-dir", tmp_path / "out", "--max-sequence-length", 32)
    assert found == {
        "uri": str(corpus),
        "tokenizer": str(tokenizer_dir),
        "max_sequence_length": 32,
        "cleaning": ("fix_text", {"length": {"min_characters": 20}}),
        "validation": {"fraction": 0.25, "near_duplicates": None},
        "require": {"min_train_tokens": 100},
    }
    found = prepared(app, "--options", options, "--output-dir", tmp_path / "out", "--validation-fraction", 0.5)
    assert found["validation"] == {"fraction": 0.5, "near_duplicates": None}


@pytest.mark.parametrize(
    ("content", "arguments", "field"),
    [
        (None, [], "--options"),
        ("[", [], "--options"),
        ("- uri", [], "--options"),
        ("", [], "--options"),
        ("packing: 5", ["--remainder", "drop"], "dataset.packing"),
        ("packing: 5", [], "dataset.packing"),
        ("tokeniser: x", [], "dataset.tokeniser"),
        ("tokenizer: checkpoint", [], "dataset.tokenizer"),
        ("source: trc2", [], "dataset.tokenizer"),
    ],
)
def test_a_mistake_in_the_file_is_named(
    app: typer.Typer, tmp_path: Path, tokenizer_dir: Path, content: str | None, arguments: list[str], field: str
) -> None:
    options = tmp_path / "options.yaml"
    if content is not None:
        options.write_text(content)
    if field != "dataset.tokenizer":
        arguments = [*arguments, "--tokenizer", str(tokenizer_dir)]
    given = ["--uri", "corpus", "--output-dir", str(tmp_path), "--options", str(options)]
    done = CliRunner().invoke(app, ["prepare", *given, *arguments])
    assert isinstance(done.exception, InvalidInputError)
    assert done.exception.field == field


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--split", "random", "dataset.validation.order"),
        ("--remainder", "keep", "dataset.packing.remainder"),
        ("--near-duplicates", "0", "dataset.validation.near_duplicates"),
        ("--short-seq-prob", "1", "dataset.packing.short_seq_prob"),
        ("--special-tokens", "no", "dataset.special_tokens"),
        ("--max-sequence-length", "1", "dataset.max_sequence_length"),
        ("--validation-fraction", "1.0", "dataset.validation.fraction"),
        ("--vocab-size", "10", "dataset.tokenizer"),
        ("--source", "nope", "dataset.source"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_names_the_field(
    app: typer.Typer, tmp_path: Path, tokenizer_dir: Path, corpus: Path, option: str, value: str, field: str
) -> None:
    arguments = ["--uri", str(corpus), "--tokenizer", str(tokenizer_dir), "--output-dir", str(tmp_path)]
    done = CliRunner().invoke(app, ["prepare", *arguments, option, value])
    assert isinstance(done.exception, InvalidInputError)
    assert done.exception.field == field
