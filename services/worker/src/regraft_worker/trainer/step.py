"""One optimiser step: windows in, changed weights and their numbers out.

What a step computes is a pure function of the weights, the moments and its number: the windows, the rate and the random
numbers all follow from (seed, step). Who calls it decides about logging, saving and stopping.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from regraft.specs import TrainingSpec
from regraft_worker.model.loss import mean_loss
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.data import as_features, samples_of
from regraft_worker.trainer.inputs import Inputs
from regraft_worker.trainer.optimizer import AdamW
from regraft_worker.trainer.schedule import schedule_of
from regraft_worker.trainer.snapshot import HostBuffers, Snapshot
from regraft_worker.trainer.targets import Target
from regraft_worker.trainer.weights import load_model
from regraft_worker.trainer.world import Alone, World

Judge = Callable[[int, float, float], bool]
"""Called with step, loss and gradient norm before the weights are touched: false leaves them as they are."""


class Outcome(NamedTuple):
    """The numbers of one step."""

    loss: float
    gradient_norm: float
    rate: float
    tokens: int
    """Counted in the loss."""
    seconds: float


class TrainStep:
    """Model, optimiser and schedule of a run."""

    world: World = Alone()

    def __init__(self, spec: TrainingSpec, inputs: Inputs, target: Target, *, start: Path | None, judge: Judge) -> None:
        self.spec, self.inputs, self.target, self.judge = spec, inputs, target, judge
        self._host = HostBuffers()
        self.model = load_model(start or inputs.base, inputs.description, device=target.device).train()
        self.optimizer = AdamW(self.model, spec.optimizer)
        if start is not None:
            checkpoint.load_optimizer(start, model=self.model, optimizer=self.optimizer)
        self.schedule = schedule_of(spec, max_steps=inputs.max_steps)

    def __call__(self, step: int) -> Outcome:
        """Make step `step`, counted from 1."""
        began = time.monotonic()
        vocab_size = self.inputs.description.architecture.vocab_size
        samples = samples_of(step, batch_size=self.spec.batch_size)
        features = as_features(self.inputs.train.read(samples, vocab_size=vocab_size), device=self.target.device)
        torch.manual_seed(seed_of(self.spec.seed, step))
        self.optimizer.zero_grad(set_to_none=True)
        with self.target.autocast(self.spec.precision):
            loss = mean_loss(self.model, features)
        loss.backward()  # type: ignore[no-untyped-call]
        train_loss, norm, rate = loss.item(), self._clip().item(), self.schedule.rate(step - 1)
        if self.judge(step, train_loss, norm):
            self.optimizer.set_rate(rate)
            self.optimizer.step()
        tokens = int((features["attention_mask"] != 0).sum())
        return Outcome(train_loss, norm, rate, tokens, time.monotonic() - began)

    def snapshot(self) -> Snapshot | None:
        """Host copies of all that a checkpoint holds, None but in the main process; overwritten by the next one."""
        moments = checkpoint.moments_of(self.model, self.optimizer)
        copies = self._host.copy({**self.model.state_dict(), **moments})
        weights = {name: tensor for name, tensor in copies.items() if name not in moments}
        return Snapshot(weights, {name: copies[name] for name in moments}, {"updates": self.optimizer.step_count})

    def restore(self, folder: Path | None) -> None:
        """Weights, moments and count of updates as a checkpoint has them; None: as the run began."""
        saved = load_model(folder or self.inputs.base, self.inputs.description, device=self.target.device)
        self.model.load_state_dict(saved.state_dict())
        if folder is not None:
            checkpoint.load_optimizer(folder, model=self.model, optimizer=self.optimizer)
            return
        for moment in checkpoint.moments_of(self.model, self.optimizer).values():
            moment.zero_()
        self.optimizer.step_count = 0

    def _clip(self) -> Tensor:
        """The global L2 norm of the gradients, which are scaled down to the limit if there is one."""
        limit = self.spec.optimizer.max_gradient_norm
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)


def seed_of(seed: int, step: int) -> int:
    """The seed of one step: a hash, so that neighbouring seeds and steps never share random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:8], "little")
