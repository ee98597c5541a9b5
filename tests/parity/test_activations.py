"""Activations and those that `transformers` has under the same names."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import ACT2FN

from regraft_worker.model.activations import ACTIVATIONS, activation

TOLERANCE = 1e-6
OURS_ONLY = {"hardtanh"}  # a name of the Model Zoo
OF_OTHER_MODELS = {"gelu_10", "laplace", "prelu", "xielu", "sqrtsoftplus"}

X = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0])))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - OURS_ONLY))
def test_it_is_the_function_of_that_name(name: str) -> None:
    assert torch.allclose(activation(name)(X), ACT2FN[name](X), atol=TOLERANCE, rtol=TOLERANCE)


def test_every_name_of_transformers_is_known_or_knowingly_left_out() -> None:
    assert set(ACT2FN) - ACTIVATIONS.keys() <= OF_OTHER_MODELS


@pytest.mark.parametrize(("name", "taken_for"), [("gelu", "gelu_new"), ("quick_gelu", "silu"), ("relu2", "relu")])
def test_a_function_taken_for_another_exceeds_the_tolerance(name: str, taken_for: str) -> None:
    assert (activation(name)(X) - ACT2FN[taken_for](X)).abs().max() > 100 * TOLERANCE
