"""Tensors for the decoder out of both namings, and back: bit for bit what whole tensors give."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mapping import State, architecture, assert_same, by_rows, lazies, sample
from test_mapping import loaded as loaded_mapping

from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family, family_named
from regraft.keymap import rows
from regraft_worker.conversion.bits import same_bits, same_values
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.mapping import hf_to_cs
from regraft_worker.conversion.own import cs_architecture, own_from_cs, own_from_hf, own_to_hf

FAMILIES = pytest.mark.parametrize("name", ["gptj", "gpt-neox"])


def loaded(found: dict[str, Lazy] | list[Lazy], block_bytes: int = 2**20) -> dict[str, torch.Tensor]:
    listed = found if isinstance(found, list) else list(found.values())
    return {lazy.name: by_rows(lazy, block_bytes) for lazy in listed}


def by_whole_tensors(family: Family, made: Architecture, state: State) -> State:
    """The decoder's tensors, said once more without streaming."""
    found: State = {}
    for row in rows(family, made):
        if row.tensor.transform == "fused_qkv":
            by_head = state[row.hf].reshape(made.num_heads, 3, made.head_dim, *state[row.hf].shape[1:])
            shape = (made.hidden_size, *state[row.hf].shape[1:])
            found |= {name: by_head[:, part].reshape(shape) for part, name in enumerate(row.own)}
        elif row.hf in state:
            found[row.own[0]] = state[row.hf]
    return found


@FAMILIES
@given(heads=st.integers(1, 4), head_dim=st.sampled_from([2, 6, 16]), tied=st.booleans(), block=st.integers(1, 900))
@settings(max_examples=20, deadline=None)
def test_the_decoder_gets_hugging_faces_values_and_gives_them_back(
    name: str, heads: int, head_dim: int, tied: bool, block: int
) -> None:
    family = family_named(name)
    made = architecture(family, heads=heads, head_dim=head_dim, rotary=2, tie_word_embeddings=tied)
    state = sample(family, made)
    own = own_from_hf(family, made, lazies(state))
    assert_same(loaded(own, block), by_whole_tensors(family, made, state))
    back = own_to_hf(family, made, own)
    assert [lazy.name for lazy in back] == sorted(state)
    assert_same(loaded(back, block), state)


def test_fused_rows_come_to_the_decoder_in_their_order() -> None:
    family = family_named("gpt-neox")
    made = architecture(family)
    name = "gpt_neox.layers.1.attention.query_key_value.bias"
    own = own_from_hf(family, made, lazies({**sample(family, made), name: torch.arange(48.0)}))
    parts = {part: own[f"layers.1.{part}.bias"].whole().int().tolist() for part in "qkv"}
    assert parts == {
        "q": [*range(8), *range(24, 32)],
        "k": [*range(8, 16), *range(32, 40)],
        "v": [*range(16, 24), *range(40, 48)],
    }


@FAMILIES
@pytest.mark.parametrize("left_out", ["ln_f.", "transformer_decoder.norm.", "nothing"])
def test_cerebras_tensors_come_as_they_are(name: str, left_out: str) -> None:
    family = family_named(name)
    made = architecture(family)
    there = loaded_mapping(hf_to_cs(family, made, lazies(sample(family, made))))
    state = {"model." + n: t for n, t in there.items() if not n.startswith(left_out)}
    own = loaded(own_from_cs(family, made, lazies(state)))
    assert own.keys() == loaded(own_from_hf(family, made, lazies(sample(family, made)))).keys()
    assert same_bits(
        own["layers.1.q.weight"], there["transformer_decoder.layers.1.self_attn.proj_q_dense_layer.weight"]
    )
    assert cs_architecture(made) == dataclasses.replace(made, rotary_interleaved=True)


def test_a_state_of_the_decoder_that_is_not_whole_is_refused() -> None:
    family = family_named("gpt-neox")
    made = architecture(family)
    own = own_from_hf(family, made, lazies(sample(family, made)))
    with pytest.raises(InvalidDataError, match="no tensors rope"):
        own_to_hf(family, made, own | {"rope": of_tensor("rope", torch.ones(1))})
    with pytest.raises(InvalidDataError, match=r"missing: gpt_neox.layers.1.attention.query_key_value.bias"):
        own_to_hf(family, made, {n: lazy for n, lazy in own.items() if n != "layers.1.k.bias"})


def test_bits_tell_what_equality_does_not() -> None:
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not same_bits(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert not same_bits(torch.ones(2), torch.ones(2, 1))
    assert same_bits(torch.ones(3, 2).T, torch.ones(2, 3))
    large = torch.zeros(3, 2**22)
    other = large.clone()
    other[2, -1] = -0.0
    assert same_values(of_tensor("a", large), of_tensor("b", large.clone()))
    assert not same_values(of_tensor("a", large), of_tensor("b", other))
    assert not same_values(of_tensor("a", large), of_tensor("b", large.half()))
