"""Inputs for whole jobs: a small corpus in TRC2's format and a tiny GPT-J, made by the project's own commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft_dataprep.sample import write_trc2_sample
from regraft_worker.sample import write_sample_checkpoint


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each process that a test starts: a model this small gains nothing from threads that wait for one another."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_trc2_sample(folder / "corpus", stories=400, seed=3)
    write_sample_checkpoint(
        folder / "gptj",
        family="gptj",
        tokenizer_text=folder / "corpus",
        vocab_size=512,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_position_embeddings=64,
        seed=0,
        std=None,
    )
    return folder


@pytest.fixture
def job(inputs: Path) -> dict[str, Any]:
    """A job of 40 steps that saves every 5."""
    return {
        "dataset": {"uri": str(inputs / "corpus"), "max_sequence_length": 64},
        "base_checkpoint": {"uri": str(inputs / "gptj")},
        "target": {"kind": "cpu"},
        "training": {
            "batch_size": 8,
            "max_steps": 40,
            "log_every_steps": 1,
            "schedule": [{"linear": {"from": 0.0, "to": 5.0e-3, "steps": 4}}, {"constant": {"value": 5.0e-3}}],
            "checkpoint": {"every_steps": 5, "keep_last": 2},
        },
        "output": {"formats": ["hf", "cs-1.8"]},
    }
