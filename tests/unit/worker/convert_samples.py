"""Tiny checkpoints to convert, and ways to spoil them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from regraft.ports import NullProgress
from regraft.specs.stages import ConvertResult, ConvertTask
from regraft_worker.conversion import hf
from regraft_worker.conversion.bits import same_bits
from regraft_worker.conversion.convert import convert
from regraft_worker.sample import write_sample_checkpoint

State = dict[str, torch.Tensor]


class Recorder(NullProgress):
    """Remembers what was reported; stops after so many looks at `should_stop`."""

    def __init__(self, *, looks: int = 10**9) -> None:
        self.steps: list[tuple[int, int | None]] = []
        self.artifacts: list[tuple[str, str, dict[str, object]]] = []
        self.events: list[str] = []
        self._looks = looks

    def step(self, step, metrics, *, total=None, tokens=None) -> None:  # type: ignore[no-untyped-def]
        self.steps.append((step, total))

    def artifact(self, kind, uri, metadata) -> None:  # type: ignore[no-untyped-def]
        self.artifacts.append((kind, uri, dict(metadata)))

    def event(self, message, *, level="info", data=None) -> None:  # type: ignore[no-untyped-def]
        self.events.append(message)

    def should_stop(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def sample(folder: Path, family: str = "gptj", **options: object) -> Path:
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_heads": 2, "max_position_embeddings": 16, "std": 0.5}
    write_sample_checkpoint(folder, family=family, **{**sizes, **options})  # type: ignore[arg-type]
    return folder


def run(base: Path, output: Path, progress: Recorder | None = None, **options: Any) -> ConvertResult:
    """Without `transformers`, which takes seconds to start, unless asked for."""
    task = ConvertTask(checkpoint_uri=str(base), output_uri=str(output))
    return convert(task, progress, **{"transformers_share": 0.0, **options})


def tensors_of(folder: Path) -> State:
    with hf.open_folder(folder) as side:
        return {name: lazy.whole().clone() for name, lazy in side.tensors.items()}


def published(output: Path) -> list[Path]:
    """What a folder of artifacts shows: work folders are hidden."""
    return [path for path in output.iterdir() if not path.name.startswith(".work-")] if output.exists() else []


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    assert all(same_bits(left[name], right[name]) for name in left)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, **changes: torch.Tensor) -> None:
    save_file({**load_file(folder / "model.safetensors"), **changes}, folder / "model.safetensors")


def to_bin(folder: Path, **extra: object) -> None:
    torch.save({**load_file(folder / "model.safetensors"), **extra}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def tie(folder: Path, *, head: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors if head is None else {**tensors, "lm_head.weight": head}, folder / "model.safetensors")
    edit_config(folder, tie_word_embeddings=True)
