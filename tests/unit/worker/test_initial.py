"""Weights drawn for a model that is trained from scratch."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_runs import GPTJ

from regraft.families import FAMILIES
from regraft_worker.model import Decoder
from regraft_worker.model.initial import Initializer, default_initializers, draw_weights, truncated_normal

SIZES = {**GPTJ, "vocab_size": 500, "n_embd": 64}


def _drawn(seed: int = 1) -> Decoder:
    model = Decoder(FAMILIES[0].read_config(SIZES))
    draw_weights(model, default_initializers(0.02), seed=seed)
    return model


def test_matrices_are_cut_off_at_two_deviations_and_the_head_is_not() -> None:
    model = _drawn()
    # A normal distribution cut at two deviations is 0.88 as wide.
    for weight in (model.embedding.weight, model.layers[0].q.weight, model.layers[1].down.weight):
        assert weight.abs().max() <= 0.04
        assert math.isclose(weight.std().item(), 0.88 * 0.02, rel_tol=0.05)
    assert model.head.weight is not None
    assert model.head.weight.abs().max() > 0.05
    assert math.isclose(model.head.weight.std().item(), 0.02, rel_tol=0.05)


def test_norms_are_one_and_biases_zero() -> None:
    for name, parameter in _drawn().named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert bool((parameter == 1).all()), name


def test_the_seed_decides() -> None:
    first, again, other = (_drawn(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.q.weight"], other["layers.0.q.weight"])


@pytest.mark.parametrize(
    ("initializer", "low", "high"),
    [
        (Initializer(kind="uniform", low=-0.5, high=0.25), -0.5, 0.25),
        (Initializer(kind="constant", mean=3.0, low=0.0, high=0.0), 3.0, 3.0),
        (truncated_normal(0.1), -0.2, 0.2),
    ],
)
def test_a_distribution_stays_within_its_range(initializer: Initializer, low: float, high: float) -> None:
    tensor = torch.full((64, 64), float("nan"))
    initializer.fill(tensor, torch.Generator().manual_seed(1))
    assert low <= tensor.min() <= tensor.max() <= high
    assert tensor.max() - tensor.min() >= 0.9 * (high - low)
