"""`regraft ledger show --documents`: the documents in a window are those whose words are in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from regraft.hdf5 import Dataset
from regraft_worker.trainer.ledger import LedgerPart
from regraft_worker.trainer.sample_places import Places

LENGTH = 32


def _ran(folder: Path, *words: object) -> str:
    program = [sys.executable, "-m", "regraft.cli", *map(str, words)]
    done = subprocess.run(program, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose documents say their name again and again, prepared with ids and without, and trained on."""
    folder = tmp_path_factory.mktemp("ledger")
    texts = [{"id": f"story-{n}", "text": f"<{n}>" * (9 + 7 * n % 23)} for n in range(100, 160)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    _ran(folder, "sample", "checkpoint", "gptj", "--output", "base", "--tokenizer-text", "corpus.jsonl")
    (folder / "named.yaml").write_text("{source: jsonl, reading: {id_key: id}}")
    (folder / "nameless.yaml").write_text("{source: jsonl}")
    for name in ("named", "nameless"):
        words = ("--options", f"{name}.yaml", "--uri", "corpus.jsonl", "--tokenizer", "base", "--output-dir", name)
        _ran(folder, "prepare", *words, "--max-sequence-length", LENGTH)
    words = ("--dataset", _dataset(folder / "named"), "--checkpoint", "base", "--batch-size", 4, "--max-steps", 3)
    _ran(folder, "train", *words, "--output-dir", "run")
    return folder


@pytest.mark.parametrize("step", [1, 3])
def test_the_documents_of_a_window_are_those_whose_words_are_in_it(folder: Path, step: int) -> None:
    shown = _ran(folder, "ledger", "show", "run", "--step", step, "--documents")
    split = Dataset(_dataset(folder / "named") / "train", max_sequence_length=LENGTH)
    tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    samples = re.findall(r"^sample \d+ .* window (\d+) .*\n((?:    .*\n)*)", shown, flags=re.MULTILINE)

    assert len(samples) == 4
    for window, listed in samples:
        inputs, mask, labels = split.rows([int(window)])[0]
        length = int(mask.sum())
        text = tokenizer.decode([*inputs[:length].tolist(), int(labels[length - 1])], skip_special_tokens=False)
        named = [f"story-{number}" for number in re.findall(r"<(\d{3})>", text)]
        assert [*dict.fromkeys(named)] == _without_cut_ones(listed.split(), named), (
            text,
            listed,
        )


def test_documents_without_an_id_are_named_by_their_rows(folder: Path) -> None:
    named, nameless = (Places(_part(_dataset(folder / name))) for name in ("named", "nameless"))
    for window in range(10):
        rows = [
            f"row {int(name.removeprefix('story-')) - 100} of documents.parquet" for name in named.documents(window)
        ]
        assert nameless.documents(window) == rows


def _dataset(folder: Path) -> Path:
    return next(folder.iterdir())


def _part(dataset: Path) -> LedgerPart:
    return LedgerPart(uri=dataset.as_uri(), address=None, files=None, windows=10, data_subset=None, weight=1.0)


def _without_cut_ones(listed: list[str], named: list[str]) -> list[str]:
    """A document with less than one whole name in the window stands at one of its ends, and cannot be read there."""
    first = listed[1:] if listed[0] not in named else listed
    return first[:-1] if first and first[-1] not in named else first
