"""Runs of two processes, for test_distributed.py: torchrun --nproc-per-node=2 rank_program.py <inputs> <output>.

The output folder gets `losses.json` (scenario to losses) and the checkpoints that the scenarios save.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tiny_runs import task

from regraft_worker.trainer import checkpoint, clipping
from regraft_worker.trainer.distributed import world_for
from regraft_worker.trainer.identity import fresh_state
from regraft_worker.trainer.inputs import open_inputs
from regraft_worker.trainer.step import TrainStep
from regraft_worker.trainer.targets.cpu import Target

STEPS, SAVED = 50, 20
OPTIONS: dict[str, Any] = {
    "batch_size": 4,
    "max_steps": STEPS,
    "learning_rate": 3e-3,
    "evaluate": {"every_steps": None},
    "optimizer": {"max_gradient_norm": 0.3},
}


def losses(
    inputs: Path,
    strategy: str,
    *,
    start: Path | None = None,
    save: Path | None = None,
    upto: int = STEPS,
    **options: Any,
) -> list[float]:
    """Losses of the steps after `start`; saves at step `SAVED` when asked to."""
    asked = task(inputs, save or inputs / "unused", **{**OPTIONS, **options})
    target = Target(1 if strategy == "single" else 2, strategy)
    target.prepare()
    with open_inputs(asked) as opened:
        step = TrainStep(asked.training, opened, target, start=start, judge=lambda *_: True)
        first = checkpoint.read_state(start).step if start else 0
        found = []
        for number in range(first + 1, upto + 1):
            found.append(step(number).loss)
            if save and number == SAVED:
                snapshot = step.snapshot()
                assert (snapshot is None) == (step.world.rank != 0)
                if snapshot:
                    state = fresh_state(asked, opened).model_copy(update={"step": number})
                    checkpoint.write(save, state, snapshot, description=opened.description, base=opened.base)
                step.world.barrier()
    return found


class _OwnDivisor(TrainStep):
    """Planted: every process divides by the tokens of its own part."""

    def _counts(self, features: Any) -> tuple[float, int]:
        tokens = int(features["attention_mask"].sum())
        return float(tokens * self.world.size), tokens


def _main(inputs: Path, output: Path) -> None:
    saved = checkpoint.step_folder(output / "single", SAVED)
    found = {
        "ddp": losses(inputs, "ddp", save=output / "ddp"),
        "fsdp": losses(inputs, "fsdp", save=output / "fsdp"),
        "ddp, parts of one": losses(inputs, "ddp", upto=5, micro_batch_size=1),
        "fsdp, parts of one, recomputed": losses(
            inputs, "fsdp", upto=5, micro_batch_size=1, activation_checkpointing="full"
        ),
        "fsdp in bf16": losses(inputs, "fsdp", upto=5, precision="bf16"),
    }
    for strategy in ("ddp", "fsdp"):
        found[f"single to {strategy}"] = losses(inputs, strategy, start=saved, upto=30)
    found["fsdp to ddp"] = losses(inputs, "ddp", start=checkpoint.step_folder(output / "fsdp", SAVED), upto=30)
    found["ddp to fsdp"] = losses(inputs, "fsdp", start=checkpoint.step_folder(output / "ddp", SAVED), upto=30)
    right, globals()["TrainStep"] = TrainStep, _OwnDivisor
    found["planted: own divisor"] = losses(inputs, "ddp", upto=10)
    globals()["TrainStep"] = right
    clipping._norm_of_shards = lambda shards, world: (  # planted: each process clips by the norm of its own shards
        sum(shard.square().sum() for shard in shards).sqrt()
    )
    found["planted: own norm"] = losses(inputs, "fsdp", upto=10)
    if world_for(Target(2, "ddp")).rank == 0:
        (output / "losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stderr.flush()
    os._exit(0)
