"""AdamW in its three kinds against independent implementations, and what a checkpoint holds of them."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from regraft.errors import InvalidInputError
from regraft.specs import OptimizerSpec
from regraft_worker.trainer.clipping import clip
from regraft_worker.trainer.optimizers import moments_of, optimizer_for
from regraft_worker.trainer.world import Alone

RATE = 1e-2


def _model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 32))


def _run(model: nn.Module, step: Callable[[], None], *, steps: int, first: int = 0) -> list[Tensor]:
    for number in range(first, first + steps):
        generator = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = (torch.randn(parameter.shape, generator=generator) * 1e-4).to(parameter.dtype)
        step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def _ours(name: str, steps: int = 10) -> list[Tensor]:
    model = _model()
    optimizer = optimizer_for(model, OptimizerSpec(name=name))
    optimizer.set_rate(RATE)
    return _run(model, optimizer.step, steps=steps)


def _apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def test_the_torch_order_is_torchs() -> None:
    model = _model()
    weights = [model[0].weight, model[2].weight]  # type: ignore[index]
    others = [p for p in model.parameters() if all(p is not w for w in weights)]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-6)
    expected = _run(model, reference.step, steps=10)

    assert _apart(_ours("adamw_torch"), expected) < 1e-6
    assert _apart(_ours("adamw"), expected) > 1e-5  # the other place of eps is seen


@pytest.mark.parametrize("correct_bias", [True, False])
@pytest.mark.parametrize("powers", ["exact", "fp32"])
def test_the_cerebras_order_is_its_formula(correct_bias: bool, powers: str) -> None:
    spec = OptimizerSpec.model_validate({"correct_bias": correct_bias, "powers": powers, "weight_decay": 0.1})
    model, expected = _model(), _by_hand(spec)
    optimizer = optimizer_for(model, spec)
    optimizer.set_rate(RATE)
    found = [tensor.double() for tensor in _run(model, optimizer.step, steps=10)]

    assert _apart(found, expected) < 1e-6
    assert _apart(found, _by_hand(spec.model_copy(update={"weight_decay": 0.0}))) > 1e-4
    assert _apart(found, _by_hand(spec.model_copy(update={"eps": 2e-6}))) > 1e-5


def _by_hand(spec: OptimizerSpec) -> list[Tensor]:
    """Ten updates by the formula, in float64."""
    model = _model().double()
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    done = 0

    @torch.no_grad()
    def step() -> None:
        nonlocal done
        done += 1
        (b1, b2), number = spec.betas, torch.float32 if spec.powers == "fp32" else torch.float64
        p1, p2 = (torch.full((done,), b, dtype=number).cumprod(0)[-1].item() for b in (b1, b2))
        c = (1 - p2) ** 0.5 / (1 - p1) if spec.correct_bias else 1.0
        for p, (m, v) in zip(model.parameters(), moments, strict=True):
            m.copy_(b1 * m + (1 - b1) * p.grad)
            v.copy_(b2 * v + (1 - b2) * p.grad**2)
            decay = spec.weight_decay if p.ndim == 2 else 0.0
            p -= RATE * (c * m / (v.sqrt() + spec.eps) + decay * p)

    return _run(model, step, steps=10)


def test_eight_bits_are_near_and_not_equal() -> None:
    exact, rough = _ours("adamw_torch"), _ours("adamw_8bit")

    assert 1e-6 < _apart(rough, exact) < 0.3 * 10 * RATE
    assert _apart(exact, _ours("adamw_torch", steps=1)) > 5 * RATE  # what the bound is to be seen against


@pytest.mark.parametrize("name", ["adamw", "adamw_torch", "adamw_8bit"])
def test_a_run_goes_on_from_its_tensors_bit_for_bit(name: str) -> None:
    spec, whole = OptimizerSpec(name=name), _ours(name)
    model = _model()
    before = optimizer_for(model, spec)
    before.set_rate(RATE)
    _run(model, before.step, steps=4)
    held = {name: tensor.clone() for name, tensor in moments_of(model, before).items()}

    after = optimizer_for(model, spec)
    for key, tensor in moments_of(model, after).items():
        assert tensor.dtype == held[key].dtype
        tensor.copy_(held[key])
    after.step_count = before.step_count
    after.set_rate(RATE)

    assert _apart(_run(model, after.step, steps=6, first=4), whole) == 0.0
    assert after.step_count == 10


def test_eight_bit_moments_are_kept_as_codes_and_scales() -> None:
    model = _model()
    held = moments_of(model, optimizer_for(model, OptimizerSpec(name="adamw_8bit")))

    assert held["exp_avg.codes/0.weight"].dtype == torch.uint8
    assert held["exp_avg_sq.scale/0.weight"].shape == (64 * 128 // 256,)
    assert held["exp_avg/0.bias"].dtype == torch.float32  # too small to be worth it


def test_without_torchao_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidInputError, match=r"adamw8bit"):
        optimizer_for(_model(), OptimizerSpec(name="adamw_8bit"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_gradient_value": 1.0}, "max_gradient_norm to null"),
        ({"name": "adamw_torch", "correct_bias": False}, "correct_bias"),
        ({"betas": (0.9, 1 - 2**-26), "powers": "fp32"}, "make powers exact"),
        ({"name": "sgd"}, "adamw_8bit"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        OptimizerSpec.model_validate(options)


def test_clipping_by_value_clamps_and_still_reports_the_norm() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, -4.0]]) * 8

    norm = clip(model, OptimizerSpec(max_gradient_norm=None, max_gradient_value=0.5), world=Alone(), scale=8.0)

    assert norm.item() == pytest.approx(5.0)
    assert model.weight.grad.tolist() == [[0.5, -0.5]]


def test_the_extra_is_declared() -> None:
    text = (Path(__file__).parents[3] / "services" / "worker" / "pyproject.toml").read_text()
    assert "adamw8bit = [" in text
