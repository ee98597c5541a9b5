"""How long training waits for a checkpoint, and how far a resumed run has to look for its place; in one run.

    python benchmarks/checkpoint.py [--parameters 50] [--folder DIR]

1. Stall: what forward and backward passes of a GPT-J of some million parameters take longer while its weights and both
   moments are copied beside them, with the waiting at their end, as a run waits before it changes the weights. Compared
   with `torch.save` of the same tensors on the same disk, with and without a sync after it, in turns, medians of
   `--rounds`. Beside it: the copy alone, which is what training would wait for if it stood still.
2. Place: the samples of a step at the start and at 90 % of an epoch of `--windows` windows, with the permutation drawn
   anew each time as a resumed run does; and what skipping the windows by reading them would have cost at least.

Goal: a stall of at most 0.1 times `torch.save`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from regraft.families import detect
from regraft_worker.model.decoder import Decoder
from regraft_worker.model.loss import training_loss
from regraft_worker.trainer.data import samples_of
from regraft_worker.trainer.optimizer import MOMENTS
from regraft_worker.trainer.order import Order, RowRanges, Shares
from regraft_worker.trainer.snapshot import HostBuffers


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=50, help="millions, about")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--windows", type=int, default=20_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=asked.folder))
    try:
        print(json.dumps({"stall": stall(asked, folder), "place": place(asked)}, indent=2))
    finally:
        shutil.rmtree(folder)


def stall(asked: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Seconds that training waits."""
    model = _model(asked.parameters)
    tensors = _state(model)
    buffers = HostBuffers()
    first = _seconds(lambda: _copied(buffers, tensors))  # takes its memory
    _passes(model)
    passes, disturbed, copies, plain, synced = [], [], [], [], []
    for _ in range(asked.rounds):
        passes.append(_seconds(lambda: _passes(model)))
        disturbed.append(_seconds(lambda: _passes(model, buffers, tensors)))
        copies.append(_seconds(lambda: _copied(buffers, tensors)))
        plain.append(_seconds(lambda: torch.save(tensors, folder / "plain")))
        synced.append(_seconds(lambda: _saved_and_synced(tensors, folder / "synced")))
        for name in ("plain", "synced"):
            (folder / name).unlink()
    medians = {
        "stall": statistics.median(slow - fast for slow, fast in zip(disturbed, passes, strict=True)),
        "passes of a step": statistics.median(passes),
        "copy alone": statistics.median(copies),
        "torch.save": statistics.median(plain),
        "torch.save, synced": statistics.median(synced),
    }
    return {
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "seconds": medians,
        "first copy": first,
        "stall / torch.save": medians["stall"] / medians["torch.save"],
        "stall / torch.save, synced": medians["stall"] / medians["torch.save, synced"],
    }


def place(asked: argparse.Namespace) -> dict[str, object]:
    """Seconds to find the samples of a step in a process that has just started."""
    batch, found = 8, {}
    for share in (0.0, 0.1, 0.5, 0.9):
        step = 1 + int(share * asked.windows / batch)
        found[f"{share:.0%}"] = statistics.median(
            _seconds(lambda step=step: _locate(asked.windows, step, batch)) for _ in range(3)
        )
    return {"windows": asked.windows, "seconds by share of the epoch": found, "90% / 0%": found["90%"] / found["0%"]}


def _locate(windows: int, step: int, batch: int) -> None:
    order = Order([RowRanges(windows)], Shares([1.0]), seed=1, shuffle=True)
    order.locate(samples_of(step, batch_size=batch))


def _model(millions: int) -> Decoder:
    """A GPT-J of about so many million parameters."""
    hidden = 384 if millions < 100 else 768
    layers = max(1, round((millions * 10**6 - 2 * 50_400 * hidden) / (12 * hidden**2)))
    config = {"model_type": "gptj", "vocab_size": 50_400, "n_embd": hidden, "n_layer": layers, "n_head": hidden // 64}
    config |= {"n_positions": 512, "rotary_dim": 32, "activation_function": "gelu_new"}
    return Decoder(detect(config).read_config(config))


def _passes(model: Decoder, buffers: HostBuffers | None = None, tensors: dict[str, Tensor] | None = None) -> None:
    """Forward and backward passes over four windows of 512 tokens, a copy beginning with them if there are buffers."""
    ids = torch.arange(4 * 512, dtype=torch.int32).view(4, 512)
    features = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    if buffers is not None and tensors is not None:
        buffers.begin(tensors)
    training_loss(model, features, divisor=float(ids.numel()), weight=1.0).backward()
    if buffers is not None:
        buffers.wait()


def _copied(buffers: HostBuffers, tensors: dict[str, Tensor]) -> None:
    buffers.begin(tensors)
    buffers.wait()


def _state(model: Decoder) -> dict[str, Tensor]:
    """Weights and moments."""
    weights = model.state_dict()
    return weights | {
        f"{moment}/{name}": torch.rand_like(tensor) for moment in MOMENTS for name, tensor in weights.items()
    }


def _saved_and_synced(tensors: dict[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
