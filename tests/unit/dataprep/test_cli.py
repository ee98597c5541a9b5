"""The two commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from regraft.errors import InvalidInputError
from regraft.storage import is_published, local_path
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


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
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
