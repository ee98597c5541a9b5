"""AdamW with 8-bit moments, by torchao: block-wise quantised, 256 values to a scale (Dettmers et al. 2021,
arXiv:2110.02861).

Two bytes of moments per parameter instead of eight, which is what lets a model of 6 billion parameters train on one
80 GB device. The update is torch's order, eps after the bias correction. Tensors of fewer than 4096 values, or of a
number that 256 does not divide, keep fp32 moments. For one device's worth of parameters: sharded ones would be
quantised in other blocks for every number of processes, so the job is refused with `fsdp`.

torchao is an extra (`regraft-worker[adamw8bit]`) and is imported when a job asks for it. It compiles its update with
torch.compile on a GPU; on a processor the same function runs as it stands, which is slow and needs no compiler.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import InvalidInputError
from regraft.specs import OptimizerSpec
from regraft_worker.trainer.optimizer import MOMENTS, parameter_groups

_QUANTISED = ("codes", "scale")  # the third part, the map from codes to values, is the same constant everywhere


class AdamW8bit:
    """See the module; `step_count` is the number of updates made."""

    def __init__(self, model: nn.Module, spec: OptimizerSpec) -> None:
        self._inner = _torchao_adamw()(parameter_groups(model, spec), lr=0.0, betas=spec.betas, eps=spec.eps)
        self.state = self._inner.state
        self.param_groups = self._inner.param_groups
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self._fresh(parameter)
        self.step_count = 0

    @property
    def step_count(self) -> int:
        """Number of updates made."""
        return self._step_count

    @step_count.setter
    def step_count(self, count: int) -> None:
        self._step_count = count
        for held in self.state.values():
            held["step"].fill_(float(count))

    def step(self) -> None:
        """Apply the gradients at the rate that `set_rate` left."""
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.state)
        with torch.compiler.set_stance("force_eager") if on_cpu else nullcontext():
            self._inner.step()
        self._step_count += 1

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.param_groups:
            group["lr"].fill_(rate)

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self._inner.zero_grad(set_to_none=set_to_none)

    def _fresh(self, parameter: Tensor) -> dict[str, Any]:
        # Made here and not at the first update, so that a checkpoint has something to be read into.
        moments = {name: self._inner._new_buffer(parameter, name == MOMENTS[0]) for name in MOMENTS}
        return {"step": torch.tensor(0.0), **moments}


def parts_of(name: str, moment: Tensor) -> dict[str, Tensor]:
    """What a checkpoint holds of a moment, by the beginning of its name: `exp_avg`, or `exp_avg.codes` and `.scale`."""
    if type(moment) is Tensor or not hasattr(moment, "codes"):
        return {name: moment}
    return {f"{name}.{part}": getattr(moment, part) for part in _QUANTISED}


def _torchao_adamw() -> Any:
    try:
        from torchao.optim import AdamW8bit as Found
    except ImportError as error:
        raise InvalidInputError(
            "8-bit moments need the package torchao, which is not installed where this training runs",
            field="training.optimizer.name",
            value="adamw_8bit",
            remedy="Install regraft-worker[adamw8bit] there, or use adamw.",
            reason="package_missing",
        ) from error
    return Found
