"""The state of a run under Hugging Face names and in a Cerebras checkpoint, for both families and both groupings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_mapping import FAMILIES, architecture, assert_same, lazies, loaded, sample

from regraft.errors import InvalidDataError
from regraft.families import family_named
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import hf_to_cs
from regraft_worker.conversion.moments import TrainedState, parameter_names, read_trained, write_trained


def state(name: str, groups: int = 2) -> TrainedState:
    family = family_named(name)
    made = architecture(family)
    return TrainedState(
        global_step=12,
        exp_avg=lazies(sample(family, made, seed=1)),
        exp_avg_sq=lazies(sample(family, made, seed=2)),
        beta1_power=0.25,
        beta2_power=0.5,
        groups=({"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.1, "weight_decay": 0.0})[:groups],
        values={"schedulers.0.last_epoch": 12},
        tensors=lazies({"schedulers.0._last_value.0": torch.tensor(0.1)}),
    )


def whole(tensors: dict[str, Lazy]) -> dict[str, torch.Tensor]:
    return {name: lazy.whole() for name, lazy in tensors.items()}


@FAMILIES
@pytest.mark.parametrize("groups", [1, 2])
def test_a_state_written_is_the_state_read(name: str, groups: int) -> None:
    family = family_named(name)
    made = architecture(family)
    given = state(name, groups)
    tensors, values = write_trained(family, made, given)
    read = read_trained(family, made, {lazy.name: lazy for lazy in tensors}, values)
    assert read is not None
    for field in ("exp_avg", "exp_avg_sq", "tensors"):
        assert_same(whole(getattr(read, field)), whole(getattr(given, field)))
    empty = {"exp_avg": {}, "exp_avg_sq": {}, "tensors": {}}
    assert replace(read, **empty) == replace(given, **empty)


@FAMILIES
def test_a_moment_goes_the_way_of_its_weight(name: str) -> None:
    family = family_named(name)
    made = architecture(family)
    given = state(name)
    tensors, values = write_trained(family, made, given)
    found = {lazy.name: lazy.whole() for lazy in tensors}
    as_weights = loaded(hf_to_cs(family, made, dict(given.exp_avg)))
    names = parameter_names(family, made)
    assert_same(
        {parameter: found[f"optimizer.state.{number}.exp_avg"] for number, parameter in enumerate(names)},
        {parameter: as_weights[parameter] for parameter in names},
    )
    assert {name for name in as_weights if name not in names} == {
        "transformer_decoder.norm.weight",
        "transformer_decoder.norm.bias",
    }
    first = [values[f"optimizer.param_groups.0.params.{place}"] for place in range(names.index("ln_f.weight"))]
    assert first == list(range(names.index("ln_f.weight")))
    assert all(torch.equal(found[f"optimizer.state.{n}.beta1_power"], torch.tensor(0.25)) for n in range(len(names)))


def test_the_order_of_neox_is_that_of_its_modules() -> None:
    made = architecture(family_named("gpt-neox"))
    names = parameter_names(family_named("gpt-neox"), made, groups=1)
    attention = [f"self_attn.proj_{part}_dense_layer" for part in ("q", "k", "v", "output")]
    in_layer = [*attention, "norm1", "norm3", "ffn.ffn.0.linear_layer", "ffn.ffn.1.linear_layer"]
    layers = [f"transformer_decoder.layers.{layer}.{module}" for layer in range(2) for module in in_layer]
    modules = ["ln_f", *layers]
    pairs = [f"{module}.{part}" for module in modules for part in ("weight", "bias")]
    assert names == ["embedding_layer.word_embeddings.weight", *pairs, "lm_head.weight"]
    grouped = parameter_names(family_named("gpt-neox"), made)
    assert sorted(grouped) == sorted(names)
    assert grouped[-1].endswith("bias")
    assert not [name for name in grouped[: grouped.index("ln_f.weight")] if "norm" in name or "bias" in name]


def test_a_tied_head_is_one_parameter_with_the_embedding() -> None:
    made = architecture(family_named("gptj"), tie_word_embeddings=True)
    names = parameter_names(family_named("gptj"), made)
    assert "lm_head.weight" not in names
    assert names[-1] == "lm_head.bias"


def test_weights_alone_have_no_state() -> None:
    family = family_named("gptj")
    made = architecture(family)
    assert read_trained(family, made, lazies({"model.x": torch.zeros(1)}), {}) is None


@pytest.mark.parametrize("left_out", ["optimizer.state.3.exp_avg", "optimizer.state.0.beta1_power", "global_step"])
def test_a_state_that_is_not_whole_is_refused(left_out: str) -> None:
    family = family_named("gptj")
    made = architecture(family)
    tensors, values = write_trained(family, made, state("gptj"))
    kept = {lazy.name: lazy for lazy in tensors if lazy.name != left_out}
    with pytest.raises(InvalidDataError):
        read_trained(family, made, kept, {name: value for name, value in values.items() if name != left_out})
    other = architecture(family, n_layer=3)
    with pytest.raises(InvalidDataError, match="parameters"):
        read_trained(family, other, {lazy.name: lazy for lazy in tensors}, values)
