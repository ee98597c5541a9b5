"""Loss scaling, precisions by target, micro-batches and what is computed again."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import GPTJ, Recorder, contents, task, write_dataset, write_model

from regraft.errors import InvalidInputError
from regraft.families import Architecture
from regraft.sizing import Setup, memory_of
from regraft.sizing.fit import HEADROOM
from regraft.specs import TargetSpec, TrainingSpec
from regraft_worker.trainer import checkpoint, loop
from regraft_worker.trainer import step as step_module
from regraft_worker.trainer.inputs import open_inputs
from regraft_worker.trainer.microbatch import micro_batch
from regraft_worker.trainer.precision import GROWTH_INTERVAL, INITIAL, MINIMUM, LossScaler
from regraft_worker.trainer.step import TrainStep
from regraft_worker.trainer.targets import cpu, gpu, target_for
from regraft_worker.trainer.weights import describe

GIB = 2**30


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    write_model(folder / "base", {**GPTJ, "n_layer": 3})
    write_dataset(folder / "dataset")
    return folder


def _losses(inputs: Path, output: Path, **options: Any) -> list[float]:
    recorder = Recorder()
    loop.train(task(inputs, output, evaluate={"every_steps": None}, **options), recorder)
    return recorder.losses()


def test_the_scale_halves_on_overflow_and_doubles_after_many_good_steps() -> None:
    scaler = LossScaler()

    assert scaler.overflowed(finite=False)
    assert (scaler.scale, scaler.skipped) == (INITIAL / 2, 1)
    assert not any(scaler.overflowed(finite=True) for _ in range(GROWTH_INTERVAL))
    assert scaler.scale == INITIAL
    again = LossScaler()
    again.restore(scaler.scalars())
    assert again.scalars() == {"loss_scale": INITIAL, "loss_scale_good_steps": 0, "skipped_steps": 1}


def test_at_the_least_scale_nothing_is_skipped_any_more() -> None:
    scaler = LossScaler()
    skipped = 0
    while scaler.overflowed(finite=False):
        skipped += 1

    assert scaler.scale == MINIMUM
    assert skipped == 30  # from 2^16 to 2^-14


def test_a_scaled_step_is_the_step_and_an_overflow_changes_nothing(inputs: Path, tmp_path: Path) -> None:
    asked = task(inputs, tmp_path)
    target = cpu.Target(1)
    with open_inputs(asked) as opened:
        plain, scaled = (TrainStep(asked.training, opened, target, start=None, judge=lambda *_: True) for _ in range(2))
        scaled.scaler = LossScaler()  # in fp32, whose range the scale does not leave: powers of two change no bit
        for number in (1, 2, 3):
            assert scaled(number)[:4] == pytest.approx(plain(number)[:4], abs=1e-6)
        before = [parameter.clone() for parameter in scaled.model.parameters()]
        scaled.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
        made = scaled(4)

        assert made.skipped
        assert not math.isfinite(made.gradient_norm)
        assert all(torch.equal(a, b) for a, b in zip(before, scaled.model.parameters(), strict=True))
        snapshot = scaled.snapshot()
        assert snapshot is not None
        assert snapshot.scalars == {
            "updates": 3,
            "loss_scale": INITIAL / 2,
            "loss_scale_good_steps": 0,
            "skipped_steps": 1,
        }


def test_steps_that_fp16_leaves_out_are_reported(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = iter([math.inf, math.inf])
    right = step_module.clip

    def overflowing(*args: Any, **options: Any) -> torch.Tensor:
        norm = right(*args, **options)
        return torch.full_like(norm, next(norms, norm.item()))

    monkeypatch.setattr(step_module, "clip", overflowing)
    monkeypatch.setattr(cpu.Target, "autocast", lambda *_: nullcontext())  # fp32 under the scale of fp16
    recorder = Recorder()
    loop.train(task(inputs, tmp_path, precision="fp16", max_steps=3), recorder)
    reports = {number: metrics for number, metrics in recorder.steps if number}

    assert [reports[n]["train_skipped_steps"] for n in (1, 2, 3)] == [1, 2, 2]
    assert [reports[n]["train_loss_scale"] for n in (1, 2, 3)] == [INITIAL / 2, INITIAL / 4, INITIAL / 4]
    assert [n for n in reports if "train_grad_norm" in reports[n]] == [3]
    assert checkpoint.read_state(checkpoint.step_folder(tmp_path, 3)).updates() == 1


@pytest.mark.parametrize("size", [1, 3, None])
def test_the_loss_is_divided_and_weighted_as_asked(inputs: Path, tmp_path: Path, size: int | None) -> None:
    loss = {"scaling": "batch_size", "weight": 0.5}
    plain, asked = task(inputs, tmp_path), task(inputs, tmp_path, loss=loss, micro_batch_size=size)
    with open_inputs(plain) as opened:
        by_tokens, by_batch = (
            TrainStep(one.training, opened, cpu.Target(1), start=None, judge=lambda *_: True)(1)
            for one in (plain, asked)
        )
    factor = 0.5 * by_tokens.tokens / plain.training.batch_size

    assert factor > 2  # neither the divisor nor the weight alone would do
    assert by_batch.loss == pytest.approx(factor * by_tokens.loss, rel=1e-5)
    assert by_batch.gradient_norm == pytest.approx(factor * by_tokens.gradient_norm, rel=1e-4)


def test_the_processor_refuses_fp16_and_says_why(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="hundred times slower") as caught:
        loop.train(task(inputs, tmp_path, precision="fp16"))

    assert caught.value.field == "precision"


@pytest.mark.parametrize("size", [1, 3])
def test_accumulation_changes_nothing(inputs: Path, tmp_path: Path, size: int) -> None:
    whole = _losses(inputs, tmp_path / "whole")
    parts = _losses(inputs, tmp_path / "parts", micro_batch_size=size)

    assert parts == pytest.approx(whole, abs=1e-6)


def test_a_divisor_of_each_part_would_be_seen(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _losses(inputs, tmp_path / "whole")
    forward = "regraft_worker.trainer.step.Objective.forward"
    from regraft_worker.model.loss import mean_loss

    monkeypatch.setattr(forward, lambda self, features, divisor: mean_loss(self.model, features) / 4)
    planted = _losses(inputs, tmp_path / "parts", micro_batch_size=1)

    assert max(abs(a - b) for a, b in zip(planted, whole, strict=True)) > 1e-4


@pytest.mark.parametrize("how", ["selective", "full"])
def test_what_is_computed_again_is_the_same_with_dropout_too(inputs: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "inputs"
    write_model(folder / "base", {**GPTJ, "resid_pdrop": 0.1, "attn_pdrop": 0.1})
    (folder / "dataset").symlink_to(inputs / "dataset")
    runs = {}
    for name in ("none", how):
        loop.train(task(folder, tmp_path / name, max_steps=3, activation_checkpointing=name))
        runs[name] = contents(checkpoint.step_folder(tmp_path / name, 3))

    assert runs[how] == runs["none"]


def test_the_micro_batch_is_what_fits(inputs: Path) -> None:
    architecture = _sixfold(describe(inputs / "base").architecture)
    spec = TrainingSpec(batch_size=64, precision="bf16", activation_checkpointing="full")
    setup = Setup(batch_size=64, length=2048, precision="bf16", checkpointing="full")

    def chosen(memory: float, **more: Any) -> tuple[int, int]:
        found = micro_batch(spec, architecture, setup.with_(**more), device="cuda:0", memory_bytes=int(memory))
        return found.size, found.parts

    ten = memory_of(architecture, setup, micro_batch=10, on_cpu=False).peak
    assert 100e9 < ten < 120e9  # fp32 weights, gradients and moments of 6 billion
    assert chosen(ten / HEADROOM + 1) == (10, 7)  # ten fit: seven rounds, the even share is ten
    assert chosen(2 * ten) == (64, 1)
    assert chosen(GIB) == (1, 64)  # nothing fits by the estimate, which may be wrong
    assert chosen(GIB, devices=8) == (1, 8)
    assert chosen(ten / 2, devices=8, strategy="fsdp") == (8, 1)  # divided among eight, all of it fits


def _sixfold(small: Architecture) -> Architecture:
    """GPT-J-6B's sizes."""
    sizes = {"num_layers": 28, "hidden_size": 4096, "filter_size": 16384, "vocab_size": 50400, "num_heads": 16}
    return replace(small, **sizes)


def test_an_event_says_how_a_step_is_divided(inputs: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    loop.train(task(inputs, tmp_path, micro_batch_size=3, max_steps=1), recorder)

    assert ("info", "2 sequence(s) at a time on each device, 2 time(s) a step (as asked)") in recorder.events


def test_sharding_and_eight_bits_exclude_each_other() -> None:
    training = TrainingSpec.model_validate({"optimizer": {"name": "adamw_8bit"}})

    with pytest.raises(InvalidInputError, match="ddp"):
        cpu.Target(1, "fsdp").check(training)


def test_strategies() -> None:
    assert [target_for(TargetSpec(kind="cpu", devices=n)).strategy for n in (1, 2)] == ["single", "fsdp"]
    with pytest.raises(ValueError, match="single"):
        TargetSpec(kind="cpu", devices=2, strategy="single")


def test_what_nvidia_smi_says_is_understood() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559, 9.0, 550.54.15\nTesla T4, 15360, 7.5, 550.54.15\nFailed to initialize NVML\n"

    assert gpu.parse(text) == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "memory_bytes": 81559 * 2**20,
            "compute_capability": 9.0,
            "driver": "550.54.15",
        },
        {"name": "Tesla T4", "memory_bytes": 15360 * 2**20, "compute_capability": 7.5, "driver": "550.54.15"},
    ]


def test_gpus_are_found_by_asking_and_hidden_ones_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'A, 1000, 8.0, 1'\necho 'B, 500, 7.5, 1'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(gpu, "_torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    assert {**gpu.available(), "driver": ""} == {
        "available": True,
        "devices": 2,
        "name": "A",
        "memory_bytes": 500 * 2**20,
        "compute_capability": 7.5,
        "bf16": False,
        "driver": "",
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert (gpu.available()["devices"], gpu.available()["bf16"]) == (1, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.available()["available"] is False
    with pytest.raises(InvalidInputError, match=r"target\.devices"):
        gpu.Target(1)


def test_the_memory_of_the_target_is_a_metric(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw: dict[str, float] = {}

    class Raw(Recorder):
        def step(self, step: int, metrics: Any, **more: Any) -> None:
            super().step(step, metrics, **more)
            raw.update(metrics)

    assert cpu.Target(1).memory()["peak_memory_bytes"] > 2**26  # torch alone is more
    monkeypatch.setattr(cpu.Target, "memory", lambda _: {"peak_memory_bytes": 5.0, "reserved_memory_bytes": 7.0})
    recorder = Raw()
    loop.train(task(inputs, tmp_path, max_steps=1, evaluate={"every_steps": None}), recorder)

    assert (raw["peak_memory_bytes"], raw["reserved_memory_bytes"]) == (5.0, 7.0)
    assert "reserved_memory_bytes" not in recorder.steps[-1][1]  # counted among what differs from run to run
