"""`regraft ledger show --documents`: the documents in a window of a prepared dataset are those whose words are in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from regraft.hdf5 import Dataset

LENGTH = 32


def _ran(folder: Path, *words: object) -> str:
    program = [sys.executable, "-m", "regraft.cli", *map(str, words)]
    done = subprocess.run(program, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose documents say their number again and again, half of them without an id; prepared and trained on."""
    folder = tmp_path_factory.mktemp("ledger")
    texts = [{"id": _name(n) if n % 2 else None, "text": f"<{n}>" * (9 + 7 * n % 23)} for n in range(100, 160)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    _ran(folder, "sample", "checkpoint", "gptj", "--output", "base", "--tokenizer-text", "corpus.jsonl")
    (folder / "options.yaml").write_text("{source: jsonl, reading: {id_key: id}}")
    options = ("--options", "options.yaml", "--uri", "corpus.jsonl", "--tokenizer", "base", "--output-dir", "datasets")
    _ran(folder, "prepare", *options, "--max-sequence-length", LENGTH, "--split", "hashed")
    dataset = next((folder / "datasets").iterdir())
    words = ("--dataset", dataset, "--checkpoint", "base", "--batch-size", 4, "--max-steps", 3)
    _ran(folder, "train", *words, "--output-dir", "run")
    return folder


@pytest.mark.parametrize("step", [1, 3])
def test_the_documents_of_a_window_are_those_whose_words_are_in_it(folder: Path, step: int) -> None:
    shown = _ran(folder, "ledger", "show", "run", "--step", step, "--documents")
    split = Dataset(next((folder / "datasets").iterdir()) / "train", max_sequence_length=LENGTH)
    tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    samples = re.findall(r"^sample \d+ .* window (\d+) .*\n((?:    .*\n)*)", shown, flags=re.MULTILINE)

    assert len(samples) == 4
    for window, listed in samples:
        inputs, mask, labels = split.rows([int(window)])[0]
        length = int(mask.sum())
        text = tokenizer.decode([*inputs[:length].tolist(), int(labels[length - 1])], skip_special_tokens=False)
        named = [_name(int(number)) for number in re.findall(r"<(\d{3})>", text)]
        assert [*dict.fromkeys(named)] == _without_cut_ones([line.strip() for line in listed.splitlines()], named), (
            text,
            listed,
        )


def _name(number: int) -> str:
    return f"story-{number}" if number % 2 else f"row {number - 100} of documents.parquet"


def _without_cut_ones(listed: list[str], named: list[str]) -> list[str]:
    """A document with less than one whole name in the window stands at one of its ends, and cannot be read there."""
    first = listed[1:] if listed[0] not in named else listed
    return first[:-1] if first and first[-1] not in named else first
