"""On a GPU: the same losses as on the processor, in every precision and strategy. Skipped where there is none.

`pytest -m gpu` runs these alone; docs/gpu.md says what has been run so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import GPTJ, Recorder, contents, task, write_dataset, write_model

from regraft.specs import TargetSpec
from regraft_worker import launch
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.targets import gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch"),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    write_model(folder / "base", {**GPTJ, "n_embd": 256, "n_head": 4, "rotary_dim": 32, "n_layer": 3})
    write_dataset(folder / "dataset")
    return folder


def _losses(inputs: Path, output: Path, *, kind: str = "gpu", strategy: str = "single", **options: Any) -> list[float]:
    recorder = Recorder()
    asked = task(inputs, output, **options)
    launch.train(asked.model_copy(update={"target": TargetSpec(kind=kind, strategy=strategy)}), recorder)
    return recorder.losses()


@pytest.fixture(scope="module")
def expected(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return _losses(inputs, tmp_path_factory.mktemp("cpu"), kind="cpu")


def test_what_the_machine_has_is_what_torch_finds() -> None:
    facts = gpu.available()

    assert facts["available"] is True
    assert facts["devices"] == torch.cuda.device_count()
    assert facts["bf16"] == torch.cuda.is_bf16_supported(including_emulation=False)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-4),
        ({"micro_batch_size": 1, "activation_checkpointing": "selective"}, 1e-4),
        ({"precision": "bf16"}, 1e-1),
        ({"precision": "fp16"}, 1e-1),
        ({"precision": "bf16", "compile": True}, 1e-1),
        ({"precision": "bf16", "compile": True, "activation_checkpointing": "full"}, 1e-1),
    ],
    ids=str,
)
def test_losses_are_those_of_the_processor(
    inputs: Path, tmp_path: Path, expected: list[float], options: dict[str, Any], tolerance: float
) -> None:
    assert _losses(inputs, tmp_path, **options) == pytest.approx(expected, abs=tolerance)


def test_the_same_job_gives_the_same_bits(inputs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        _losses(inputs, tmp_path / name, precision="bf16", max_steps=3)

    a, b = (contents(checkpoint.step_folder(tmp_path / name, 3)) for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_group_of_one_talks_through_nccl(inputs: Path, tmp_path: Path, expected: list[float], strategy: str) -> None:
    assert _losses(inputs, tmp_path, strategy=strategy) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_8bit"])
def test_the_other_optimisers_learn(inputs: Path, tmp_path: Path, expected: list[float], name: str) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("torchao")
    found = _losses(inputs, tmp_path, optimizer={"name": name})

    assert found[-1] < found[0]
    assert found == pytest.approx(expected, abs=0.2)
