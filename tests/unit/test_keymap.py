"""Names of tensors, and the values that move when a tensor changes its naming."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft.families import FAMILIES, Architecture, Family, expected_tensors, family_named
from regraft.keymap import find_hf, is_ignored, rows, why_not_cs, without_prefix
from regraft_worker.conversion.tensors import (
    cs_to_hf,
    hf_to_cs,
    hf_to_own,
    own_to_hf,
    same_bits,
)

CONFIGS: dict[str, dict[str, object]] = {
    "gptj": {"vocab_size": 11, "n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4, "n_positions": 8},
    "gpt-neox": {
        "vocab_size": 11,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "rotary_pct": 0.5,
        "intermediate_size": 32,
        "max_position_embeddings": 8,
    },
}
State = dict[str, torch.Tensor]


def model(name: str, **config: object) -> tuple[Family, Architecture]:
    family = family_named(name)
    return family, family.read_config({**CONFIGS[name], **config})


def random_state(family: Family, architecture: Architecture) -> State:
    generator = torch.Generator().manual_seed(5)
    return {n: torch.randn(s, generator=generator) for n, s in expected_tensors(family, architecture).items()}


def to_cs(family: Family, architecture: Architecture, state: State) -> State:
    return dict(pair for name, tensor in state.items() for pair in hf_to_cs(family, architecture, name, tensor))


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    assert all(same_bits(left[name], right[name]) for name in left)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_row_has_distinct_names_in_each_naming(family: Family) -> None:
    _, architecture = model(family.name)
    found = list(rows(family, architecture))
    assert [row.hf for row in found] == sorted(expected_tensors(family, architecture))
    for names in ([n for r in found for n in r.own], [n for r in found for n in r.cs]):
        assert len(names) == len(set(names))
    assert all(find_hf(family, architecture, row.hf) == row for row in found)


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.2.ln_1.weight",
        "transformer.h.01.ln_1.weight",
        "transformer.h.{n}.ln_1.weight",
        "transformer.h.-1.ln_1.weight",
        "transformer.h.0.ln_9.weight",
        "h.0.ln_1.weight",
        "",
    ],
)
def test_a_name_the_model_does_not_have_is_found_nowhere(name: str) -> None:
    assert find_hf(*model("gptj"), name) is None


def test_buffers_are_ignored_by_their_whole_name() -> None:
    family = family_named("gpt-neox")
    assert is_ignored(family, "gpt_neox.layers.11.attention.rotary_emb.inv_freq")
    assert not is_ignored(family, "gpt_neox.layers.11.attention.dense.bias")
    assert not is_ignored(family, "x.gpt_neox.layers.1.attention.bias")
    assert without_prefix("model.lm_head.weight") == "lm_head.weight" == without_prefix("lm_head.weight")


def test_a_model_that_cerebras_has_not_is_explained() -> None:
    assert why_not_cs(model("gpt-neox")[1]) == ""
    assert "one after the other" in why_not_cs(model("gpt-neox", use_parallel_residual=False)[1])
    assert "rotary base is 500000" in why_not_cs(model("gpt-neox", rotary_emb_base=500000)[1])


def test_the_fused_rows_go_where_the_model_zoo_puts_them() -> None:
    # Two heads of eight, four dimensions rotated; every row holds its own number.
    family, architecture = model("gpt-neox")
    for suffix, fused in (("weight", torch.arange(48.0)[:, None].expand(48, 16)), ("bias", torch.arange(48.0))):
        name = f"gpt_neox.layers.0.attention.query_key_value.{suffix}"
        parts = {n.split(".")[-2]: t for n, t in hf_to_cs(family, architecture, name, fused)}
        ids = {n: (t if t.ndim == 1 else t[:, 0]).int().tolist() for n, t in parts.items()}
        q = [0, 2, 1, 3, 4, 5, 6, 7, 24, 26, 25, 27, 28, 29, 30, 31]
        assert ids["proj_q_dense_layer"] == q
        assert ids["proj_k_dense_layer"] == [row + 8 for row in q]
        assert ids["proj_v_dense_layer"] == [*range(16, 24), *range(40, 48)]


def test_the_decoder_gets_the_fused_rows_unpermuted() -> None:
    family, architecture = model("gpt-neox")
    name = "gpt_neox.layers.1.attention.query_key_value.bias"
    parts = {n: t.int().tolist() for n, t in hf_to_own(family, architecture, name, torch.arange(48.0))}
    assert parts == {
        "layers.1.q.bias": [*range(8), *range(24, 32)],
        "layers.1.k.bias": [*range(8, 16), *range(32, 40)],
        "layers.1.v.bias": [*range(16, 24), *range(40, 48)],
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_tensors_come_back_from_the_decoder_and_from_cerebras_bit_for_bit(name: str) -> None:
    family, architecture = model(name)
    state = random_state(family, architecture)
    own = dict(pair for n, t in state.items() for pair in hf_to_own(family, architecture, n, t))
    assert_same(dict(own_to_hf(family, architecture, own)), state)
    assert_same(dict(cs_to_hf(family, architecture, to_cs(family, architecture, state))), state)
    assert list(dict(own_to_hf(family, architecture, own))) == sorted(state)


@given(heads=st.integers(1, 5), quarter=st.integers(1, 6), half_rotary=st.integers(1, 12), seed=st.integers(0, 99))
def test_any_rotary_layout_survives_the_way_to_cerebras_and_back(
    heads: int, quarter: int, half_rotary: int, seed: int
) -> None:
    family, architecture = model("gpt-neox")
    size = 4 * quarter
    architecture = dataclasses.replace(
        architecture, num_heads=heads, hidden_size=heads * size, rotary_dim=min(2 * half_rotary, size), num_layers=1
    )
    fused = torch.randn(3 * heads * size, 3, generator=torch.Generator().manual_seed(seed))
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    state = random_state(family, architecture) | {name: fused}
    back = dict(cs_to_hf(family, architecture, to_cs(family, architecture, state)))
    assert same_bits(back[name], fused)


def test_the_final_norm_is_written_under_both_cerebras_names() -> None:
    tensor = torch.ones(16)
    found = hf_to_cs(*model("gptj"), "transformer.ln_f.bias", tensor)
    assert [name for name, _ in found] == ["transformer_decoder.norm.bias", "ln_f.bias"]
    assert all(value is tensor for _, value in found)


@pytest.mark.parametrize("dropped", ["ln_f", "transformer_decoder.norm"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_one_copy_of_the_final_norm_and_any_prefix_suffice(dropped: str, prefix: str) -> None:
    family, architecture = model("gptj")
    state = random_state(family, architecture)
    stored = {prefix + n: t for n, t in to_cs(family, architecture, state).items() if not n.startswith(dropped)}
    assert len(stored) == len(state)
    assert_same(dict(cs_to_hf(family, architecture, stored)), state)


def test_copies_of_the_final_norm_that_differ_are_refused() -> None:
    family, architecture = model("gptj")
    stored = to_cs(family, architecture, random_state(family, architecture))
    stored["ln_f.weight"] = stored["ln_f.weight"] + 1
    with pytest.raises(InvalidDataError, match="one tensor and have different values"):
        list(cs_to_hf(family, architecture, stored))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("lm_head.bias"), "'lm_head.bias' is missing"),
        (lambda state: [state.pop(n) for n in ("ln_f.bias", "transformer_decoder.norm.bias")], "norm.bias' is missing"),
        (lambda state: state.update(surprise=torch.ones(1)), "no tensors surprise"),
        (lambda state: state.update({"model.lm_head.bias": torch.ones(11)}), "both with and without"),
    ],
)
def test_a_cerebras_state_that_is_not_whole_is_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    family, architecture = model("gptj")
    stored = to_cs(family, architecture, random_state(family, architecture))
    change(stored)
    with pytest.raises(InvalidDataError, match=message):
        list(cs_to_hf(family, architecture, stored))


def test_a_state_of_the_decoder_that_is_not_whole_is_refused() -> None:
    family, architecture = model("gpt-neox")
    state = random_state(family, architecture)
    own = dict(pair for n, t in state.items() for pair in hf_to_own(family, architecture, n, t))
    with pytest.raises(InvalidDataError, match="no tensors rope"):
        list(own_to_hf(family, architecture, own | {"rope": torch.ones(1)}))
    del own["layers.1.k.bias"]
    with pytest.raises(InvalidDataError, match=r"'layers.1.k.bias' is missing"):
        list(own_to_hf(family, architecture, own))


def test_a_tied_head_is_left_out_everywhere() -> None:
    family, architecture = model("gptj", tie_word_embeddings=True)
    state = random_state(family, architecture)
    assert hf_to_own(family, architecture, "lm_head.weight", torch.ones(11, 16)) == []
    own = dict(pair for n, t in state.items() for pair in hf_to_own(family, architecture, n, t))
    assert "head.weight" not in own
    assert_same(dict(own_to_hf(family, architecture, own | {"head.weight": own["embedding.weight"]})), state)


def test_an_unknown_name_is_refused_on_the_way_in() -> None:
    with pytest.raises(InvalidDataError, match=r"no tensor 'transformer.h.7.ln_1.weight'"):
        hf_to_own(*model("gptj"), "transformer.h.7.ln_1.weight", torch.ones(16))


def test_fused_rows_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidDataError, match="47 rows where the config asks for 48"):
        hf_to_own(*model("gpt-neox"), "gpt_neox.layers.0.attention.query_key_value.bias", torch.ones(47))


def test_same_bits_sees_what_equality_does_not() -> None:
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not same_bits(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert not same_bits(torch.ones(2), torch.ones(2, 1))
    assert same_bits(torch.ones(3, 2).T, torch.ones(2, 3))
