# ruff: noqa: E402  # the sources are found before they are imported
"""Training on one GPU: tokens per second, MFU and peak memory of each setting, and the losses against the processor's.

    python benchmarks/gpu_train.py [--parameters 125M,2B] [--seconds 190]

Makes its own GPT-J shaped models with random weights and its own windows; needs torch, numpy, h5py, safetensors and
pydantic, no network and no installed Regraft (the sources beside this file are used). Steps are the trainer's own
(`TrainStep`), reading included. MFU counts 6 FLOPs per weight of a matrix product and token (the input embedding does
none) and 6 * layers * length * width for causal attention's products, not what is computed again, against the dense
bf16 peak of the device. Ends early, saying so, when the time is up.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import tempfile
import time
import types
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for source in ("shared/src", "services/worker/src"):
    sys.path.insert(0, str(ROOT / source))


def _do_without(name: str, **attributes: object) -> None:
    """Stand in for a package that the sources import and nothing here uses, where it is not installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)


_do_without("yaml")
_do_without("zlib_ng", zlib_ng=zlib)

import h5py
import numpy as np
import torch

from regraft.specs import TargetSpec, TrainingSpec, TrainTask
from regraft_worker.trainer.inputs import open_inputs
from regraft_worker.trainer.step import TrainStep
from regraft_worker.trainer.targets import target_for

PEAK_BF16 = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
SIZES = {
    "tiny": {"n_embd": 256, "n_layer": 4, "n_head": 4, "rotary_dim": 32, "vocab_size": 1024, "n_positions": 256},
    "125M": {"n_embd": 768, "n_layer": 12, "n_head": 12, "rotary_dim": 32, "vocab_size": 50400, "n_positions": 2048},
    "1.3B": {"n_embd": 2048, "n_layer": 24, "n_head": 16, "rotary_dim": 64, "vocab_size": 50400, "n_positions": 2048},
    "6B": {"n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64, "vocab_size": 50400, "n_positions": 2048},
    "2B": {"n_embd": 2560, "n_layer": 24, "n_head": 10, "rotary_dim": 64, "vocab_size": 50400, "n_positions": 2048},
}
"""6B is GPT-J-6B. Heads of 2B are 256 wide, as its are: the hardest case of fused attention."""
SETTINGS: list[dict[str, Any]] = [
    {},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": "full"},
    {"compile": True},
    {"compile": True, "activation_checkpointing": "full"},
    {"compile": True, "optimizer": {"name": "adamw_torch"}},
    {"compile": True, "optimizer": {"name": "adamw_8bit"}},
    {"compile": True, "activation_checkpointing": "full", "optimizer": {"name": "adamw_8bit"}},
]
MEASURED_STEPS, WARM_STEPS = 6, 3
CURVE_STEPS, CURVE_TOLERANCE = 20, {"fp32": 2e-3, "bf16": 5e-2}


def write_inputs(folder: Path, size: str, *, rows: int) -> None:
    """A checkpoint of random weights and windows of random, learnable tokens."""
    from safetensors.torch import save_file

    from regraft.families import detect, expected_tensors

    config = {"model_type": "gptj", "activation_function": "gelu_new", **SIZES[size]}
    family = detect(config)
    generator = torch.Generator().manual_seed(0)
    shapes = expected_tensors(family, family.read_config(config))
    (folder / "base").mkdir(parents=True)
    save_file(
        {name: _weights(name, shape, generator) for name, shape in shapes.items()}, folder / "base/model.safetensors"
    )
    (folder / "base/config.json").write_text(json.dumps({**config, "architectures": ["GPTJForCausalLM"]}))
    (folder / "base/tokenizer.json").write_text("{}")
    rng, length = np.random.default_rng(0), config["n_positions"]
    tokens = (rng.integers(0, 97, (rows, 1)) + np.arange(length + 1) * rng.integers(1, 5, (rows, 1))) % 97
    data = np.stack([tokens[:, :-1], np.ones((rows, length)), tokens[:, 1:]], axis=1).astype(np.int32)
    (folder / "dataset/train").mkdir(parents=True)
    with h5py.File(folder / "dataset/train/windows.h5", "w") as file:
        file.create_dataset("data", data=data)
        file.attrs["n_examples"] = rows


def _weights(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        kind = torch.ones if "ln_" in name and name.endswith("weight") else torch.zeros
        return kind(shape, dtype=torch.float16)
    # One block of random numbers over and over, in half precision: drawing two billion takes longer than training.
    block = torch.randn(2**22, generator=generator).mul_(0.02).half()
    size = shape[0] * shape[1]
    return block.repeat(-(-size // len(block)))[:size].view(shape).clone()


def steps(folder: Path, kind: str, count: int, **options: Any) -> tuple[TrainStep, list[Any]]:
    """A run's first steps: the step object, for its model, and what each gave."""
    training = {"max_steps": 1000, "learning_rate": 1e-4, "schedule": [{"constant": {"value": 1e-4}}], **options}
    task = TrainTask(
        dataset_uri=str(folder / "dataset"),
        checkpoint_uri=str(folder / "base"),
        training=TrainingSpec.model_validate(training),
        target=TargetSpec(kind=kind),
        output_uri=str(folder / "run"),
    )
    target = target_for(task.target)
    target.prepare()
    with open_inputs(task) as inputs:
        made = TrainStep(task.training, inputs, target, start=None, judge=lambda *_: True)
        return made, [made(number) for number in range(1, count + 1)]


def flops_per_token(made: TrainStep) -> float:
    """Of forward and backward; see the module."""
    architecture = made.inputs.description.architecture
    weights = sum(p.numel() for name, p in made.model.named_parameters() if p.ndim == 2 and name != "embedding.weight")
    length = made.inputs.train.parts[0].dataset.max_sequence_length
    return 6.0 * weights + 6.0 * architecture.num_layers * length * architecture.hidden_size


def measure(folder: Path, batch: int, peak: float | None, **options: Any) -> str:
    """One line of the table."""
    torch.cuda.reset_peak_memory_stats()
    made, outcomes = steps(folder, "gpu", WARM_STEPS + MEASURED_STEPS, batch_size=batch, precision="bf16", **options)
    timed = outcomes[WARM_STEPS:]
    rate = sum(one.tokens for one in timed) / sum(one.seconds for one in timed)
    mfu = "n/a" if peak is None else f"{100 * rate * flops_per_token(made) / peak:.1f} %"
    memory = torch.cuda.max_memory_allocated() / 2**30
    first = outcomes[0].seconds
    return f"{rate:>10,.0f} {mfu:>8} {memory:>8.2f} {made.micro.size:>6} {first:>8.1f} {outcomes[-1].loss:>9.4f}"


def curves(folder: Path) -> bool:
    """Losses on the GPU against those of the processor in fp32."""
    write_inputs(folder, "tiny", rows=64)
    options = {"batch_size": 8, "learning_rate": 1e-3}
    _, expected = steps(folder, "cpu", CURVE_STEPS, **options)
    fine = True
    for precision, tolerance in CURVE_TOLERANCE.items():
        _, found = steps(folder, "gpu", CURVE_STEPS, precision=precision, **options)
        apart = max(abs(a.loss - b.loss) for a, b in zip(found, expected, strict=True))
        fine = fine and apart < tolerance
        fell = f"{expected[0].loss:.3f} to {expected[-1].loss:.3f}"
        print(f"losses, GPU {precision} against CPU fp32, {fell}: apart {apart:.2e} (< {tolerance:g})")
    return fine


def main() -> int:
    """Everything; the exit status is 1 when losses are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", default="125M,2B", help=f"sizes, of {', '.join(SIZES)}")
    parser.add_argument("--seconds", type=float, default=190.0, help="start nothing new after so many")
    asked = parser.parse_args()
    began = time.monotonic()
    if not torch.cuda.is_available():
        print("no GPU, or a torch without CUDA: nothing to measure")
        return 2
    name = torch.cuda.get_device_name()
    peak = next((rate for part, rate in PEAK_BF16.items() if part in name), None)
    print(f"{name}, torch {torch.__version__}, peak {peak and peak / 1e12} TFLOP/s bf16, deterministic, TF32 off")
    with tempfile.TemporaryDirectory() as scratch:
        fine = curves(Path(scratch) / "curves")
        print(
            f"{'size':5} {'setting':70} {'tokens/s':>10} {'MFU':>8} {'GiB':>8} {'micro':>6} {'first s':>8} {'loss':>9}"
        )
        for size in asked.parameters.split(","):
            folder = Path(scratch) / size
            write_inputs(folder, size, rows=256)
            for options in SETTINGS:
                if size == "6B" and options.get("activation_checkpointing") != "full":
                    continue  # its activations fit no card beside its weights
                if time.monotonic() - began > asked.seconds:
                    print(f"{size:5} {options!s:70} not run: {asked.seconds:g} s are over")
                    continue
                if "8bit" in str(options) and find_spec("torchao") is None:
                    print(f"{size:5} {options!s:70} not run: torchao is not installed")
                    continue
                try:
                    line = measure(folder, 16, peak, **options)
                except Exception as error:  # noqa: BLE001  # one setting that fails must not hide the others
                    line = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
                print(f"{size:5} {options!s:70} {line}", flush=True)
                gc.collect()
                torch.cuda.empty_cache()
                torch.compiler.reset()
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
