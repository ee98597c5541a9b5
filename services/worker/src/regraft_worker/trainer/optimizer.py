"""AdamW in the order that Cerebras and the first Hugging Face AdamW use.

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g g
    p = p - rate (c m / (sqrt(v) + eps) + decay p),   c = sqrt(1 - b2^t) / (1 - b1^t)

`torch.optim.AdamW` adds eps after the bias correction of v, which makes the first steps larger: at eps 1e-6 the two
differ by 2e-3 in the loss after twenty steps of a small model. Use torch's where no run has to be reproduced.

Both orders are here; `optimizers.optimizer_for` picks the one a job asks for. Parameters that are sharded over
processes (DTensors) are updated shard by shard, for every formula here is element by element.

Both run through torch's fused kernel, which passes once over all that a parameter has and makes no temporaries. Its own
bias correction is switched off, and ours goes in as rate and decay. Moments are fp32 like the weights: 8 bytes per
parameter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from regraft.specs import OptimizerSpec
from regraft_worker.trainer.shards import local

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW(torch.optim.Optimizer):
    """See the module; `step_count` is the number of updates made."""

    def __init__(self, model: nn.Module, spec: OptimizerSpec) -> None:
        super().__init__(parameter_groups(model, spec), defaults={"lr": 0.0, "weight_decay": 0.0})
        self.spec = spec
        self.step_count = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {moment: torch.zeros_like(parameter) for moment in MOMENTS}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply the gradients at the rate that `set_rate` left."""
        assert closure is None, "a step re-evaluates nothing"
        self.step_count += 1
        for group in self.param_groups:
            if group["params"]:
                self._update(group["params"], rate=group["lr"], decay=group["weight_decay"])

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.param_groups:
            group["lr"] = rate

    def _update(self, parameters: list[Tensor], *, rate: float, decay: float) -> None:
        m, v = ([local(self.state[parameter][moment]) for parameter in parameters] for moment in MOMENTS)
        beta1, beta2 = self.spec.betas
        correction = self._correction(beta1, beta2)
        # After infinitely many updates the kernel corrects nothing: 1 - beta^t is 1.
        done = torch.full((), math.inf, device=m[0].device)
        adamw(
            [local(parameter) for parameter in parameters],
            [local(_gradient(parameter)) for parameter in parameters],
            m,
            v,
            [],
            [done] * len(m),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate * correction,
            weight_decay=decay / correction,  # the kernel multiplies it by its rate
            eps=self._eps(beta2),
            maximize=False,
        )

    def _eps(self, beta2: float) -> float:
        """What the kernel adds to the root of v, which is not corrected there."""
        return self.spec.eps

    def _correction(self, beta1: float, beta2: float) -> float:
        if not self.spec.correct_bias:
            return 1.0
        power1, power2 = (power_of(beta, self.step_count, exact=self.spec.powers == "exact") for beta in (beta1, beta2))
        return math.sqrt(1 - power2) / (1 - power1)


def power_of(beta: float, exponent: int, *, exact: bool) -> float:
    """`beta` to the power of `exponent`, at least 1; not exact: multiplied up in fp32, one rounding for each factor.

    At the twentieth step 1 - beta2^t is then off by a part in 100,000, and the update by half of that.
    """
    return beta**exponent if exact else float(np.multiply.accumulate(np.full(exponent, beta, np.float32))[-1])


class AdamWTorch(AdamW):
    """The order of `torch.optim.AdamW`: eps is added to the corrected root of v, so the plain root gets less of it."""

    def _eps(self, beta2: float) -> float:
        return self.spec.eps * math.sqrt(1 - beta2**self.step_count)


def decayed(model: nn.Module) -> dict[str, bool]:
    """Whether weight decay applies, by parameter name: to all but biases and norms, so to embeddings too."""
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    return {
        name: name.rpartition(".")[0] not in norms and not name.endswith("bias") for name, _ in model.named_parameters()
    }


def parameter_groups(model: nn.Module, spec: OptimizerSpec) -> list[dict[str, Any]]:
    decay = decayed(model)
    parameters = dict(model.named_parameters())
    return [
        {"params": [parameters[name] for name in decay if decay[name] is applies], "weight_decay": value}
        for applies, value in ((True, spec.weight_decay), (False, 0.0))
    ]


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "every parameter takes part in the loss"
    assert parameter.grad.stride() == parameter.stride(), "the kernel goes through both in the order of memory"
    return parameter.grad
