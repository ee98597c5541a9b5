"""A small corpus and a small tokenizer, made once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regraft_dataprep.sample import write_trc2_sample


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 stories."""
    path = tmp_path_factory.mktemp("corpus") / "sample.trc2"
    write_trc2_sample(path, stories=200, seed=7)
    return path


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Byte-level BPE with 512 tokens, id 0 is <|endoftext|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.read_text(errors="ignore").split("\n"), trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


class Recorder:
    """A `Progress` that remembers what it was told. `on_question` answers the n-th question whether to stop."""

    def __init__(self, on_question: Callable[[int], bool] = lambda number: False) -> None:
        self.steps: list[tuple[int, int | None, int | None]] = []
        self.artifacts: list[tuple[str, str, Mapping[str, object]]] = []
        self.events: list[tuple[str, str]] = []
        self.told: dict[str, Mapping[str, object] | None] = {}
        self.invited: list[tuple[str, int]] = []
        self.questions = 0
        self.on_question = on_question

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        assert all(isinstance(value, float) for value in metrics.values())
        self.steps.append((step, total, tokens))

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        self.artifacts.append((kind, uri, metadata))

    def event(self, message: str, *, level: str = "info", data: Mapping[str, object] | None = None) -> None:
        json.dumps(data)
        self.events.append((level, message))
        self.told[message] = data

    def invite(self, where: str, *, workers: int) -> None:
        self.invited.append((where, workers))

    def is_kept(self, folder: Path) -> bool:
        return False

    def should_stop(self) -> bool:
        self.questions += 1
        return self.on_question(self.questions)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_recorder() -> type[Recorder]:
    return Recorder
