"""Small models, datasets and runs for the tests of training; as a program, a run that is killed at a given point.

python tiny_runs.py <folder with base/ and dataset/> <output folder> <log file> <where to die>
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: models this small gain nothing from threads that wait

import h5py
import numpy as np
import torch

from regraft.families import FAMILIES, Family
from regraft.specs import TargetSpec, TrainingSpec, TrainTask
from regraft.specs.monitoring import MEASURED
from regraft_worker.conversion.hf import write_checkpoint
from regraft_worker.conversion.lazy import of_tensor
from regraft_worker.conversion.own import own_to_hf
from regraft_worker.model import Decoder
from regraft_worker.trainer import checkpoint, loop, retention

VOCAB, LENGTH = 61, 16

GPTJ = {
    "model_type": "gptj",
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "rotary_dim": 4,
    "activation_function": "gelu_new",
    "dtype": "float16",
}
NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "rotary_pct": 0.5,
}
DROPOUT = {"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}


class Recorder:
    """A `Progress` that remembers; `stop_after` makes it ask for a stop once that step was reported."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.artifacts: list[tuple[str, dict[str, Any]]] = []
        self.pruned: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.totals: list[tuple[int | None, int | None]] = []

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        repeatable = {name: value for name, value in metrics.items() if name not in MEASURED}
        if metrics and not repeatable:
            return  # nothing but what the clock says
        self.steps.append((step, {**repeatable, "tokens": tokens or 0}))
        self.totals.append((total, tokens))

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        if kind == "pruned":
            self.pruned.append(Path(uri).name)
        else:
            self.artifacts.append((Path(uri).name, dict(metadata)))

    def event(self, message: str, *, level: str = "info", data: Mapping[str, object] | None = None) -> None:
        self.events.append((level, message))

    def should_stop(self) -> bool:
        return self.stop_after is not None and bool(self.steps) and self.steps[-1][0] >= self.stop_after

    def is_asked_to_stop(self) -> bool:
        return self.should_stop()

    def losses(self) -> list[float]:
        return [metrics["train_loss"] for _, metrics in self.steps if "train_loss" in metrics]


def write_model(folder: Path, config: Mapping[str, object] = GPTJ, *, seed: int = 0) -> Path:
    """A random model as a Hugging Face directory with a tokenizer file; in half precision if its config says so."""
    family: Family = next(f for f in FAMILIES if f.model_type == config["model_type"])
    architecture = family.read_config(config)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in Decoder(architecture).state_dict().items()
    }
    state = {name: tensor.half() if config.get("dtype") == "float16" else tensor for name, tensor in state.items()}
    lazies = {name: of_tensor(name, tensor) for name, tensor in state.items()}
    write_checkpoint(folder, own_to_hf(family, architecture, lazies), config=config)
    (folder / "tokenizer.json").write_text('{"of": "the base"}')
    return folder


def windows(n: int, *, seed: int = 0, length: int = LENGTH) -> np.ndarray:
    """(n, 3, length): a noisy counting language, padded at the end of some windows."""
    rng = np.random.default_rng(seed)
    tokens = (np.arange(length + 1) + rng.integers(0, VOCAB, (n, 1)) + (rng.random((n, length + 1)) < 0.1)) % VOCAB
    mask = np.arange(length) < rng.integers(length // 2, length + 1, (n, 1))
    return np.stack([tokens[:, :-1], mask, tokens[:, 1:] * mask], axis=1).astype(np.int32)


def write_split(folder: Path, data: np.ndarray) -> None:
    """One file of windows."""
    folder.mkdir(parents=True)
    with h5py.File(folder / "examples_0_0.h5", "w") as file:
        file.create_dataset("data", data=data)
        file.attrs["n_examples"] = len(data)


def write_dataset(folder: Path, *, train: int = 21, held_out: int = 7, length: int = LENGTH) -> Path:
    """A dataset; zero windows: no such split."""
    for split, n, seed in (("train", train, 1), ("eval", held_out, 2)):
        if n:
            write_split(folder / split, windows(n, seed=seed, length=length))
    return folder


def task(folder: Path, output: Path, **options: Any) -> TrainTask:
    """Twelve steps over an uneven number of windows, saved every three, scored every four."""
    training = {
        "batch_size": 4,
        "max_steps": 12,
        "learning_rate": 3e-3,
        "log_every_steps": 1,
        "evaluate": {"every_steps": 4, "at_start": False},
        "checkpoint": {"every_steps": 3, "keep_last": 100},
        "tensorboard": False,
    }
    return TrainTask(
        dataset_uri=str(folder / "dataset"),
        checkpoint_uri=str(folder / "base"),
        training=TrainingSpec.model_validate({**training, **options}),
        target=TargetSpec(kind="cpu"),
        output_uri=str(output),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Weights and optimiser state of a checkpoint, byte for byte."""
    names = ("model.safetensors", "training_state/optimizer.safetensors", "config.json")
    return {name: (folder / name).read_bytes() for name in names}


class _Doomed(Recorder):
    """Writes each report to a file, and kills its process at one of them."""

    def __init__(self, log: Path, *, last_step: int | None) -> None:
        super().__init__()
        self.log, self.last_step = log, last_step

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        super().step(step, metrics, total=total, tokens=tokens)
        with self.log.open("a") as file:
            file.write(json.dumps(self.steps[-1]) + "\n")
        if step == self.last_step:
            _die()


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _main(folder: str, output: str, log: str, where: str) -> None:
    kind, _, number = where.partition(":")
    if kind == "writing":  # weights are there, the optimiser state is not
        saved = []
        write = checkpoint.write_safetensors

        def doomed(*args: Any, **options: Any) -> Any:
            if len(saved) == int(number):
                _die()
            saved.append(1)
            return write(*args, **options)

        checkpoint.write_safetensors = doomed
    if kind == "pruning":  # half of a checkpoint is deleted
        retention.shutil = SimpleNamespace(rmtree=_die)  # type: ignore[assignment]
    options = {"checkpoint": {"every_steps": 3, "keep_last": 1}} if kind == "pruning" else {}
    progress = _Doomed(Path(log), last_step=int(number) if kind == "step" else None)
    loop.train(task(Path(folder), Path(output), **options), progress)


if __name__ == "__main__":
    _main(*sys.argv[1:])
