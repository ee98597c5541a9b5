"""One optimiser step: windows in, changed weights and their numbers out.

What a step computes is a pure function of the weights, the moments and its number: the windows, the rate and the random
numbers all follow from (seed, step). Who calls it decides about logging, saving and stopping.

The batch of a step is divided among the processes, in order, and each part into micro-batches. The loss is that of the
whole batch however it is divided: every part divides its sum by the number of tokens that the whole batch counts. So
are the gradients, their norm, and what is made of them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from regraft.errors import RegraftError
from regraft.jobs import ReasonClass
from regraft.ports import NullProgress, Progress
from regraft.sizing import Setup
from regraft.specs import TrainingSpec
from regraft_worker.model.decoder import Decoder
from regraft_worker.model.loss import divisor_of, training_loss
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.blocks import prepare_blocks
from regraft_worker.trainer.clipping import clip
from regraft_worker.trainer.data import as_features, samples_of
from regraft_worker.trainer.distributed import replicate, settle, shard, synchronised, world_for
from regraft_worker.trainer.inputs import Inputs
from regraft_worker.trainer.microbatch import micro_batch
from regraft_worker.trainer.optimizers import moments_of, optimizer_for
from regraft_worker.trainer.placing import load_moments, load_weights
from regraft_worker.trainer.precision import LossScaler
from regraft_worker.trainer.schedule import schedule_of
from regraft_worker.trainer.shards import local, whole
from regraft_worker.trainer.snapshot import HostBuffers, Snapshot
from regraft_worker.trainer.targets import Target
from regraft_worker.trainer.weights import load_model
from regraft_worker.trainer.world import World

Judge = Callable[[int, float, float], bool]
"""Called with step, loss and gradient norm before the weights are touched: false leaves them as they are."""


class Outcome(NamedTuple):
    """The numbers of one step, the same in every process."""

    loss: float
    gradient_norm: float
    """Before clipping; not finite in a step that fp16 skipped."""
    rate: float
    tokens: int
    """Counted in the loss."""
    seconds: float
    waited: float = 0.0
    """Seconds of these that it waited for a copy of the weights before changing them."""
    skipped: bool = False
    """True when the gradients left the range of fp16: the weights are as they were."""


class OutOfDeviceMemoryError(RegraftError):
    """The device's memory is used up."""

    reason = "out_of_memory"
    reason_class = ReasonClass.CAPACITY


class Objective(nn.Module):
    """The model with its loss: what is replicated as a whole."""

    def __init__(self, model: Decoder, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight

    def forward(self, features: Mapping[str, Tensor], divisor: float) -> Tensor:
        """Summed cross entropy times the loss's weight, by `divisor`."""
        return training_loss(self.model, features, divisor=divisor, weight=self.weight)


class TrainStep:
    """Model, optimiser and schedule of a run, as one process has them."""

    def __init__(
        self,
        spec: TrainingSpec,
        inputs: Inputs,
        target: Target,
        *,
        start: Path | None,
        judge: Judge,
        progress: Progress | None = None,
    ) -> None:
        self.spec, self.inputs, self.target, self.judge = spec, inputs, target, judge
        target.check(spec)
        self.world: World = world_for(target)
        self.micro = micro_batch(
            spec,
            inputs.description.architecture,
            self._setup(),
            device=target.device,
            memory_bytes=target.memory_bytes(),
        )
        (progress or NullProgress()).event(self.micro.why, data={"micro_batch_size": self.micro.size})
        self.model = self._placed(start or inputs.base).train()
        prepare_blocks(self.model, spec)
        self.objective: nn.Module = Objective(self.model, spec.loss.weight)
        if target.strategy == "ddp":
            self.objective = replicate(self.objective)
        self.optimizer = optimizer_for(self.model, spec.optimizer)
        self.scaler = LossScaler() if spec.precision == "fp16" else None
        self.schedule = schedule_of(spec, max_steps=inputs.max_steps)
        self._host = HostBuffers()
        if start is not None:
            self._restore_optimizer(start)

    def _setup(self) -> Setup:
        """What decides about memory."""
        a = self.inputs.description.architecture
        return Setup(
            batch_size=self.spec.batch_size,
            length=self.inputs.train.parts[0].dataset.max_sequence_length,
            precision=self.spec.precision,
            optimizer=self.spec.optimizer.name,
            checkpointing=self.spec.activation_checkpointing,
            strategy=self.target.strategy,
            devices=self.world.size,
            dropout=max(a.embedding_dropout, a.attention_dropout, a.residual_dropout) > 0,
        )

    def __call__(self, step: int) -> Outcome:
        """Make step `step`, counted from 1.

        Raises:
            OutOfDeviceMemoryError: it does not fit the device.
        """
        began = time.monotonic()
        try:
            made = self._make(step)
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemoryError(
                "a step does not fit the memory of the device",
                field="training.micro_batch_size",
                value=self.micro.size,
                remedy="Make it smaller; or set activation_checkpointing, optimizer adamw_8bit, or the strategy fsdp.",
            ) from error
        return made._replace(seconds=time.monotonic() - began)

    def snapshot(self) -> Snapshot | None:
        """Host copies of all that a checkpoint holds, in the main process, None in others, which have to call it too.

        They are made while the next step computes; the next snapshot overwrites them.
        """
        settle(self.model)
        moments = moments_of(self.model, self.optimizer)
        weights = dict(self.model.named_parameters())
        sharded = self.target.strategy == "fsdp"
        if not sharded and self.world.rank:
            return None
        copies: dict[str, Tensor] = {}
        if sharded:  # one after the other: a tensor at a time is whole
            for name, tensor in {**weights, **moments}.items():
                gathered = whole(tensor.detach())
                copies |= self._host.begin({name: gathered}) if self.world.rank == 0 else {}
        else:
            copies = self._host.begin({**weights, **moments})
        if self.world.rank:
            return None
        scalars: dict[str, float | int] = {"updates": self.optimizer.step_count}
        scalars |= self.scaler.scalars() if self.scaler else {}
        of_weights, of_moments = ({name: copies[name] for name in names} for names in (weights, moments))
        return Snapshot(of_weights, of_moments, scalars, wait=self._host.wait)

    def restore(self, folder: Path | None) -> None:
        """Weights, moments and scalars as a checkpoint has them; None: as the run began."""
        settle(self.model)
        self._host.wait()
        load_weights(self.model, folder or self.inputs.base)
        if folder is not None:
            self._restore_optimizer(folder)
            return
        for moment in moments_of(self.model, self.optimizer).values():
            local(moment).zero_()
        self.optimizer.step_count = 0
        if self.scaler:
            self.scaler.restore({})

    def _placed(self, folder: Path) -> Decoder:
        description, device = self.inputs.description, self.target.device
        if self.target.strategy != "fsdp":
            return load_model(folder, description, device=device)
        with torch.device("meta"):
            model = Decoder(description.architecture)
        shard(model, self.target)
        model.to_empty(device=device)
        load_weights(model, folder)
        return model

    def _restore_optimizer(self, folder: Path) -> None:
        load_moments(moments_of(self.model, self.optimizer), folder)
        state = checkpoint.read_state(folder)
        self.optimizer.step_count = state.updates()
        if self.scaler:
            self.scaler.restore(state.scalars)

    def _make(self, step: int) -> Outcome:
        features = self._features(step)
        counted, tokens = self._counts(features)
        torch.manual_seed(seed_of(self.spec.seed, step, rank=self.world.rank))
        self.optimizer.zero_grad(set_to_none=True)
        scale = self.scaler.scale if self.scaler else 1.0
        divisor = divisor_of(self.spec.loss, tokens=counted, samples=self.spec.batch_size)
        loss = self._accumulate(features, divisor=divisor, scale=scale)
        norm = clip(self.model, self.spec.optimizer, world=self.world, scale=scale).item()
        rate = self.schedule.rate(step - 1)
        skipped = self.scaler is not None and math.isfinite(loss) and self.scaler.overflowed(finite=math.isfinite(norm))
        waited = 0.0
        if not skipped and self.judge(step, loss, norm):
            waited = self._host.wait()
            self.optimizer.set_rate(rate)
            self.optimizer.step()
        return Outcome(loss, norm, rate, tokens, seconds=0.0, waited=waited, skipped=skipped)

    def _features(self, step: int) -> dict[str, Tensor]:
        """This process's part of the batch: consecutive samples, so that the parts in order are the batch."""
        own = self.spec.batch_size // self.world.size
        samples = samples_of(step, batch_size=self.spec.batch_size)[self.world.rank * own :][:own]
        vocab_size = self.inputs.description.architecture.vocab_size
        return as_features(self.inputs.train.read(samples, vocab_size=vocab_size), device=self.target.device)

    def _counts(self, features: Mapping[str, Tensor]) -> tuple[float, int]:
        """Of the whole batch: the sum of the loss mask, and how many tokens it counts."""
        mask = features["attention_mask"]
        weight, tokens = self.world.total(torch.stack([mask.sum(), (mask != 0).sum()]).double()).tolist()
        return weight, int(tokens)

    def _accumulate(self, features: Mapping[str, Tensor], *, divisor: float, scale: float) -> float:
        """Gradients of the whole batch's loss times `scale`; returns the loss itself, the whole batch's."""
        averaged = self.world.size if self.target.strategy in ("ddp", "fsdp") else 1
        summed = torch.zeros((), dtype=torch.float64, device=self.target.device)
        for part, last in _micro_batches(features, self.micro.size):
            with synchronised(self.objective, last=last):
                with self.target.autocast(self.spec.precision):
                    # The loss makes its gradients in the forward pass, in the lower precision: it is scaled within.
                    loss = self.objective(part, divisor / (averaged * scale))
                loss.backward()
            summed += loss.detach()
        return float(self.world.total(summed).item()) / (averaged * scale)


def seed_of(seed: int, step: int, *, rank: int = 0) -> int:
    """The seed of one step: a hash, so that neighbouring seeds, steps and processes never share random numbers."""
    text = f"{seed}:{step}" + (f":{rank}" if rank else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _micro_batches(features: Mapping[str, Tensor], size: int) -> Iterator[tuple[dict[str, Tensor], bool]]:
    """Parts of at most `size` windows, and whether each is the last."""
    n = len(features["input_ids"])
    for start in range(0, n, size):
        yield {name: tensor[start : start + size] for name, tensor in features.items()}, start + size >= n
