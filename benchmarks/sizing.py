"""The memory that `regraft.sizing` foretells for a training on this machine's processor, beside what one really takes.

    python benchmarks/sizing.py [--steps 3] [--case NAME ...] [--rates]

Each case writes a model and random windows, and trains it for some steps by the real `train()` in a process of its
own. Measured is the kernel's peak of the resident size (VmHWM) after the last step and before anything is saved, for
the estimate is about training. `--rates` measures matrix products of one core instead, for the table of devices.

The trade-off: resident size counts pages of the allocator that hold nothing any more, and mapped library files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch

from regraft.checkpoint_info import inspect_checkpoint
from regraft.ports import NullProgress
from regraft.sizing import counts_of, memory_of, setup_of
from regraft.specs import TargetSpec, TrainingSpec, TrainTask
from regraft_worker.sample import write_sample_checkpoint

MB = 10**6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and how it is trained."""

    family: Literal["gptj", "gptneox"]
    layers: int
    hidden: int
    vocab: int
    length: int
    batch: int
    precision: str = "fp32"


CASES = {
    "empty": Case(family="gptj", layers=1, hidden=64, vocab=512, length=16, batch=1),
    "weights": Case(family="gptj", layers=12, hidden=1024, vocab=8192, length=64, batch=1),
    "balanced": Case(family="gptj", layers=8, hidden=512, vocab=50400, length=256, batch=8),
    "balanced-bf16": Case(family="gptj", layers=8, hidden=512, vocab=50400, length=256, batch=8, precision="bf16"),
    "long": Case(family="gptneox", layers=8, hidden=512, vocab=8192, length=1024, batch=4),
    "long-bf16": Case(family="gptneox", layers=8, hidden=512, vocab=8192, length=1024, batch=4, precision="bf16"),
}


class _UntilLastStep(NullProgress):
    """Notes the peak at the first report of the last step; those that follow are of its checkpoint."""

    def __init__(self, last: int) -> None:
        self.last, self.peak = last, 0

    def step(self, step: int, metrics: Any, *, total: int | None = None, tokens: int | None = None) -> None:
        if step == self.last and not self.peak:
            self.peak = _peak_bytes()


def main() -> None:
    arguments = _arguments()
    if arguments.run:
        _train(Path(arguments.run))
    elif arguments.rates:
        _print_rates()
    else:
        _print_cases(arguments.case or list(CASES), steps=arguments.steps)


def _print_cases(names: list[str], *, steps: int) -> None:
    print("| case | parameters, M | activations, MB | estimate, MB | measured, MB | error | tokens/s |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as folder:
            _prepare(Path(folder), CASES[name], steps=steps)
            command = [sys.executable, __file__, "--run", folder]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        estimate, peak = found["estimate"], found["peak"]
        print(
            f"| {name} | {found['parameters'] / 1e6:.1f} | {found['activations'] / MB:.0f} | {estimate / MB:.0f} "
            f"| {peak / MB:.0f} | {100 * (estimate / peak - 1):+.0f} % | {found['tokens_per_second']:.0f} |",
            flush=True,
        )


def _prepare(folder: Path, case: Case, *, steps: int) -> None:
    write_sample_checkpoint(
        folder / "base",
        family=case.family,
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        num_layers=case.layers,
        num_heads=8,
        max_position_embeddings=case.length,
    )
    rng = np.random.default_rng(0)
    ids = rng.integers(0, case.vocab, (steps * case.batch, case.length + 1), dtype=np.int32)
    windows = np.stack([ids[:, :-1], np.ones_like(ids[:, 1:]), ids[:, 1:]], axis=1)
    (folder / "dataset" / "train").mkdir(parents=True)
    with h5py.File(folder / "dataset" / "train" / "windows.h5", "w") as file:
        file.create_dataset("data", data=windows)
        file.attrs["n_examples"] = len(windows)
    (folder / "case.json").write_text(json.dumps({"steps": steps, **asdict(case)}))


def _train(folder: Path) -> None:
    """In a process of its own: says its peak, and what was foretold, as JSON."""
    from regraft_worker.trainer.loop import train

    case = json.loads((folder / "case.json").read_text())
    training = TrainingSpec(batch_size=case["batch"], max_steps=case["steps"], precision=case["precision"])
    target = TargetSpec(kind="cpu")
    architecture = inspect_checkpoint(folder / "base").architecture
    setup = setup_of(training, target, length=case["length"], dropout=False)
    foretold = memory_of(architecture, setup, micro_batch=case["batch"], on_cpu=True)
    progress, began = _UntilLastStep(case["steps"]), time.monotonic()
    task = TrainTask(
        dataset_uri=str(folder / "dataset"),
        checkpoint_uri=str(folder / "base"),
        training=training,
        target=target,
        output_uri=str(folder / "run"),
    )
    train(task, progress)
    tokens = case["steps"] * case["batch"] * case["length"]
    found = {
        "parameters": counts_of(architecture).total,
        "activations": foretold.activations,
        "estimate": foretold.peak,
        "peak": progress.peak,
        "tokens_per_second": tokens / (time.monotonic() - began),
    }
    print(json.dumps(found))


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _print_rates() -> None:
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        rates = []
        for _ in range(5):
            began = time.perf_counter()
            a @ b
            rates.append(2 * 2048**3 / (time.perf_counter() - began))
        print(f"{dtype}: {max(rates) / 1e9:.0f} GFLOP/s a core")
    source = torch.zeros(2**26)
    began = time.perf_counter()
    source.add_(1.0)
    print(f"memory: {2 * source.nbytes / (time.perf_counter() - began) / 1e9:.0f} GB/s read and written by a core")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--rates", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
