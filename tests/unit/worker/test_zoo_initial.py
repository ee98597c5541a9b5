"""Weights drawn for a model that is trained from scratch, and the initialisers of params files."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import GPTJ, NEOX

from regraft.errors import InvalidInputError
from regraft.families import FAMILIES, detect
from regraft_worker.zoo import initial
from regraft_worker.zoo.initial import Initializer, initial_weights, initializers_of

RANGE = 0.02


def drawn(section: dict[str, object] | None = None, *, seed: int = 1, **config: Any) -> dict[str, torch.Tensor]:
    family = FAMILIES[0]
    architecture = family.read_config({**GPTJ, "vocab_size": 500, "n_embd": 64, **config})
    initializers = initializers_of(section or {}, initializer_range=RANGE)
    tensors = initial_weights(initializers, family=family, architecture=architecture, seed=seed)
    return {lazy.name: lazy.whole() for lazy in tensors}


def test_matrices_are_cut_off_at_two_deviations_and_the_head_is_not() -> None:
    found = drawn()
    # A normal distribution cut at two deviations is 0.88 as wide.
    for name in ("transformer.wte.weight", "transformer.h.0.attn.q_proj.weight", "transformer.h.1.mlp.fc_out.weight"):
        assert found[name].abs().max() <= 2 * RANGE
        assert math.isclose(found[name].std().item(), 0.88 * RANGE, rel_tol=0.05)
    assert found["lm_head.weight"].abs().max() > 2.5 * RANGE
    assert math.isclose(found["lm_head.weight"].std().item(), RANGE, rel_tol=0.05)


def test_norms_are_one_and_biases_zero() -> None:
    for name, tensor in drawn().items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif "ln_" in name:
            assert bool((tensor == 1).all()), name


def test_every_tensor_of_a_neox_is_drawn() -> None:
    family = detect(NEOX)
    architecture = family.read_config(NEOX)
    initializers = initializers_of({}, initializer_range=RANGE)
    found = initial_weights(initializers, family=family, architecture=architecture, seed=1)
    names = {lazy.name for lazy in found}
    assert {"gpt_neox.layers.0.attention.query_key_value.weight", "embed_out.weight"} <= names
    assert all(lazy.whole().isfinite().all() for lazy in found)


def test_the_seed_decides_and_no_two_matrices_are_alike() -> None:
    first, again, other = (drawn(seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    query = [f"transformer.h.{layer}.attn.q_proj.weight" for layer in (0, 1)]
    assert not torch.equal(first[query[0]], other[query[0]])
    assert not torch.equal(first[query[0]], first[query[1]])


def test_rows_are_the_same_in_whatever_pieces_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "_ROWS", 7)
    family = FAMILIES[0]
    tensors = initial_weights(
        initializers_of({}, initializer_range=RANGE), family=family, architecture=family.read_config(GPTJ), seed=1
    )
    lazy = next(lazy for lazy in tensors if lazy.name == "transformer.wte.weight")
    whole = lazy.whole()
    assert torch.equal(lazy.read_rows(5, 24), whole[5:24])
    assert not torch.equal(whole[:7], whole[7:14])


@pytest.mark.parametrize(
    ("initializer", "low", "high"),
    [
        (Initializer(kind="uniform", low=-0.5, high=0.25), -0.5, 0.25),
        (Initializer(kind="constant", mean=3.0), 3.0, 3.0),
        (Initializer(kind="truncated_normal", std=0.1, low=-0.2, high=0.2), -0.2, 0.2),
    ],
)
def test_a_distribution_stays_within_its_range(initializer: Initializer, low: float, high: float) -> None:
    tensor = initializer.fill(torch.full((64, 64), float("nan")), torch.Generator().manual_seed(1))
    assert low <= tensor.min() <= tensor.max() <= high
    assert tensor.max() - tensor.min() >= 0.9 * (high - low)


def test_initialisers_of_the_published_recipe() -> None:
    text = """
    initializer: {name: truncated_normal, mean: 0.0, std: 0.015625}
    embedding_initializer: {name: truncated_normal, std: 0.00446068668}
    output_layer_initializer: {name: truncated_normal, std: 0.00111607142, a: -0.001, b: 0.001}
    """
    found = initializers_of(yaml.safe_load(text), initializer_range=RANGE)

    assert (found["q"].std, found["q"].low, found["q"].high) == (0.015625, -0.03125, 0.03125)
    assert found["q"] == found["k"] == found["v"]
    assert found["embedding"].std == 0.00446068668
    assert found["out"] == found["up"] == found["down"]
    assert (found["down"].low, found["down"].high) == (-0.001, 0.001)
    assert (found["head"].kind, found["head"].std) == ("normal", RANGE)


def test_a_feed_forward_has_its_own_where_it_is_named() -> None:
    keys: dict[str, object] = {
        "ffn_initializer": {"name": "uniform", "a": -1, "b": 1},
        "ffn_output_layer_initializer": "ones",
    }
    found = initializers_of(keys, initializer_range=RANGE)

    assert (found["up"].kind, found["up"].low, found["up"].high) == ("uniform", -1.0, 1.0)
    assert (found["down"].kind, found["down"].mean) == ("constant", 1.0)
    assert found["out"].std == RANGE
    matrices = drawn(keys)
    assert matrices["transformer.h.0.mlp.fc_in.weight"].abs().max() > 0.9
    assert bool((matrices["transformer.h.0.mlp.fc_out.weight"] == 1).all())


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": "lecun_normal"}, "model.initializer.name.lecun_normal"),
        ({"name": "normal", "deviation": 1}, "model.initializer.deviation"),
        ({"name": "normal", "a": -1}, "model.initializer.a"),
        ({"name": "normal", "std": "wide"}, "model.initializer.std"),
        ({"name": "truncated_normal", "std": 0}, "model.initializer"),
        ({"name": "uniform", "a": 1, "b": -1}, "model.initializer"),
        ({"std": 0.1}, "model.initializer"),
        (0.02, "model.initializer"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(given: object, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        initializers_of({"initializer": given}, initializer_range=RANGE)
    assert caught.value.field == field
