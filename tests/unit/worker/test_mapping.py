"""Mapping between namings on lazy tensors: bit for bit what the whole-tensor mapping gives, and only what is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family, expected_tensors, family_named
from regraft.keymap import Row, rows
from regraft_worker.conversion import mapping
from regraft_worker.conversion.bits import same_bits
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.mapping import Mapped, cs_to_hf, hf_to_cs

State = dict[str, torch.Tensor]


def architecture(
    family: Family, *, heads: int = 2, head_dim: int = 8, rotary: int = 4, **changes: object
) -> Architecture:
    common = {"vocab_size": 37, "rotary_dim": rotary, "initializer_range": 0.02}
    if family.name == "gptj":
        sizes = {"n_positions": 8, "n_embd": heads * head_dim, "n_layer": 2, "n_head": heads}
        return family.read_config({**common, **sizes, "n_inner": 24, **changes})
    sizes = {"hidden_size": heads * head_dim, "num_hidden_layers": 2, "num_attention_heads": heads}
    share = {"intermediate_size": 24, "max_position_embeddings": 8, "rotary_pct": rotary / head_dim}
    return family.read_config({**common, **sizes, **share, **changes})


def sample(family: Family, made: Architecture, seed: int = 0) -> State:
    torch.manual_seed(seed)
    return {name: torch.randn(shape) for name, shape in expected_tensors(family, made).items()}


def lazies(state: State) -> dict[str, Lazy]:
    return {name: of_tensor(name, tensor) for name, tensor in state.items()}


def by_rows(lazy: Lazy, block_bytes: int) -> torch.Tensor:
    return torch.cat(list(lazy.blocks(block_bytes))).reshape(lazy.shape)


def loaded(mapped: Mapped, block_bytes: int = 2**20) -> State:
    found = {lazy.name: by_rows(lazy, block_bytes) for lazy in mapped.tensors}
    return found | {name: found[target] for name, target in mapped.aliases.items()}


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not same_bits(left[name], right[name])] == []


FAMILIES = pytest.mark.parametrize("name", ["gptj", "gpt-neox"])
SHAPES = {
    "heads": st.integers(1, 5),
    "head_dim": st.sampled_from([2, 4, 6, 10, 16]),
    "share": st.floats(0.1, 1.0),
    "block_bytes": st.sampled_from([1, 100, 777, 2**20]),
    "tied": st.booleans(),
    "seed": st.integers(0, 2**31),
}


@FAMILIES
@given(**SHAPES)
@settings(max_examples=25, deadline=None)
def test_any_model_goes_there_and_back_and_agrees_with_whole_tensors(
    name: str, heads: int, head_dim: int, share: float, block_bytes: int, tied: bool, seed: int
) -> None:
    family = family_named(name)
    rotary = max(2, int(head_dim * share) // 2 * 2)
    made = architecture(family, heads=heads, head_dim=head_dim, rotary=rotary, tie_word_embeddings=tied)
    made = dataclasses.replace(made, rotary_dim=rotary)
    given_state = sample(family, made, seed)
    mapped = hf_to_cs(family, made, lazies(given_state))
    there = loaded(mapped, block_bytes)
    whole = {cs: tensor for row in rows(family, made) for cs, tensor in by_whole_tensors(row, made, given_state)}
    if tied:
        head = next(row.cs[0] for row in rows(family, made) if row.is_head)
        assert mapped.aliases[head] == "embedding_layer.word_embeddings.weight"
        whole[head] = whole["embedding_layer.word_embeddings.weight"]
    assert_same(there, whole)
    back = loaded(cs_to_hf(family, made, {lazy.name: lazy for lazy in mapped.tensors}), block_bytes)
    assert_same(back, given_state)
    assert_same(loaded(cs_to_hf(family, made, lazies(there)), block_bytes), given_state)


def by_whole_tensors(row: Row, made: Architecture, hf: State) -> list[tuple[str, torch.Tensor]]:
    """What the tensor of a row is for Cerebras, said once more: with whole tensors, as the documents say it."""
    if row.hf not in hf:
        return []
    if row.tensor.transform == "same":
        return [(name, hf[row.hf]) for name in row.cs]
    by_head = hf[row.hf].reshape(made.num_heads, 3, made.head_dim, -1)
    q, k, v = (by_head[:, part].clone() for part in range(3))
    for projection in (q, k):
        first, second = projection[:, : made.rotary_dim].clone().chunk(2, dim=1)
        projection[:, 0 : made.rotary_dim : 2] = first
        projection[:, 1 : made.rotary_dim : 2] = second
    shape = (made.hidden_size, *hf[row.hf].shape[1:])
    return [(name, projection.reshape(shape)) for name, projection in zip(row.cs, (q, k, v), strict=True)]


def fused_ids() -> Lazy:
    return of_tensor("fused", torch.arange(48))


def split_ids() -> list[list[int]]:
    made = architecture(family_named("gpt-neox"))
    return [by_rows(mapping._split("x", fused_ids(), made, part), 8).tolist() for part in range(3)]


def test_the_rows_of_a_fused_tensor_go_where_the_model_zoo_puts_them() -> None:
    q = [0, 2, 1, 3, 4, 5, 6, 7, 24, 26, 25, 27, 28, 29, 30, 31]
    assert split_ids() == [q, [row + 8 for row in q], [*range(16, 24), *range(40, 48)]]
    made = architecture(family_named("gpt-neox"))
    parts = [mapping._split("x", fused_ids(), made, part) for part in range(3)]
    assert mapping._merged("x", parts, made).whole().tolist() == list(range(48))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda made: torch.arange(made.head_dim),
        lambda made: torch.tensor([0, 1, 2, 3, 4, 6, 5, 7]),
        lambda made: torch.tensor([2, 0, 3, 1, 4, 5, 6, 7]),
    ],
)
def test_a_wrong_permutation_is_noticed(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Architecture], torch.Tensor]
) -> None:
    monkeypatch.setattr(mapping, "_interleaving", wrong)
    with pytest.raises(AssertionError):
        test_the_rows_of_a_fused_tensor_go_where_the_model_zoo_puts_them()


def test_rows_read_only_the_heads_they_need() -> None:
    made = architecture(family_named("gpt-neox"), heads=4)
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return torch.zeros(stop - start, 3)

    k = mapping._split("k", Lazy("fused", torch.float32, (96, 3), read), made, 1)
    assert k.shape == (32, 3)
    assert k.read_rows(9, 15).shape == (6, 3)
    assert asked == [(32, 40)]
    asked.clear()
    parts = [Lazy(name, torch.float32, (32, 3), read) for name in "qkv"]
    assert mapping._merged("fused", parts, made).read_rows(30, 42).shape == (12, 3)
    assert asked == [(8, 16)] * 3  # one head of each of q, k, v


@FAMILIES
def test_prefixes_and_one_of_two_copies_suffice(name: str) -> None:
    family = family_named(name)
    made = architecture(family)
    there = loaded(hf_to_cs(family, made, lazies(sample(family, made))))
    for prefix in ("", "model.", "model.model."):
        for left_out in ("ln_f.", "transformer_decoder.norm."):
            state = {prefix + n: t for n, t in there.items() if not n.startswith(left_out)}
            assert_same(loaded(cs_to_hf(family, made, lazies(state))), sample(family, made))
    with pytest.raises(InvalidDataError, match="with and without"):
        cs_to_hf(family, made, lazies({**there, "model.lm_head.weight": there["lm_head.weight"]}))


@FAMILIES
def test_copies_that_differ_are_refused(name: str) -> None:
    family = family_named(name)
    made, tied = architecture(family), architecture(family, tie_word_embeddings=True)
    there = loaded(hf_to_cs(family, made, lazies(sample(family, made))))
    with pytest.raises(InvalidDataError, match="different values"):
        cs_to_hf(family, made, lazies({**there, "ln_f.bias": there["ln_f.bias"] + 1}))
    with pytest.raises(InvalidDataError, match="different values"):
        hf_to_cs(family, tied, lazies(sample(family, made)))
    if name == "gpt-neox":  # the head has no bias of its own
        with pytest.raises(InvalidDataError, match="different values"):
            cs_to_hf(family, tied, lazies(there))


@FAMILIES
def test_missing_unknown_and_misshapen_tensors_are_named(name: str) -> None:
    family = family_named(name)
    made = architecture(family)
    hf = sample(family, made)
    cs = loaded(hf_to_cs(family, made, lazies(hf)))
    first_hf, first_cs = next(iter(hf)), "transformer_decoder.layers.1.norm1.bias"
    with pytest.raises(InvalidDataError, match=f"missing: {first_hf}"):
        hf_to_cs(family, made, lazies({n: t for n, t in hf.items() if n != first_hf}))
    with pytest.raises(InvalidDataError, match="missing"):
        cs_to_hf(family, made, lazies({n: t for n, t in cs.items() if n != first_cs}))
    with pytest.raises(InvalidDataError, match="no tensors stranger"):
        hf_to_cs(family, made, lazies({**hf, "stranger": torch.zeros(1)}))
    with pytest.raises(InvalidDataError, match="no tensors stranger"):
        cs_to_hf(family, made, lazies({**cs, "stranger": torch.zeros(1)}))
    with pytest.raises(InvalidDataError, match=first_hf):
        hf_to_cs(family, made, lazies({**hf, first_hf: torch.zeros(1)}))
    with pytest.raises(InvalidDataError, match=first_cs):
        cs_to_hf(family, made, lazies({**cs, first_cs: torch.zeros(1)}))


@FAMILIES
def test_unmatched_tensors_are_dropped_when_asked_and_named(name: str) -> None:
    family = family_named(name)
    made = architecture(family)
    hf = sample(family, made)
    mapped = hf_to_cs(family, made, lazies({**hf, "stranger": torch.zeros(1)}), drop_unmatched=True)
    assert mapped.dropped == ["stranger"]
    back = cs_to_hf(family, made, lazies({**loaded(mapped), "other": torch.zeros(1)}), drop_unmatched=True)
    assert back.dropped == ["other"]
    assert_same(loaded(back), hf)


@FAMILIES
def test_buffers_of_old_files_go_and_come_when_asked(name: str) -> None:
    family = family_named(name)
    made = architecture(family)
    hf = sample(family, made)
    cs = loaded(hf_to_cs(family, made, lazies(hf)))
    back = loaded(cs_to_hf(family, made, lazies(cs), with_buffers=True))
    buffers = {n: t for n, t in back.items() if n not in hf}
    prefix = "transformer.h.1.attn." if name == "gptj" else "gpt_neox.layers.1.attention."
    assert len(buffers) == (4 if name == "gptj" else 6)
    assert torch.equal(buffers[prefix + "bias"], torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril())
    assert buffers[prefix + "masked_bias"].item() == -1e9
    if name == "gpt-neox":
        assert torch.equal(buffers[prefix + "rotary_emb.inv_freq"], torch.tensor([1.0, 0.01]))
    assert_same(loaded(hf_to_cs(family, made, lazies(back))), cs)


@FAMILIES
@pytest.mark.parametrize("tied", [True, False])
def test_a_headless_model_gets_a_head_and_loses_it(name: str, tied: bool) -> None:
    family = family_named(name)
    made = architecture(family, tie_word_embeddings=tied)
    stem = "transformer." if name == "gptj" else "gpt_neox."
    body = {n.removeprefix(stem): t.half() for n, t in sample(family, made).items() if n.startswith(stem)}
    mapped = hf_to_cs(family, made, lazies(body), headless=True, seed=3)
    there = loaded(mapped, 1)
    assert_same(there, loaded(hf_to_cs(family, made, lazies(body), headless=True, seed=3)))
    head = there["lm_head.weight"]
    assert head.dtype == torch.float16
    if tied:
        assert same_bits(head, there["embedding_layer.word_embeddings.weight"])
    else:
        assert 0.015 < head.float().std() < 0.025
        other = loaded(hf_to_cs(family, made, lazies(body), headless=True, seed=4))
        assert not torch.equal(head, other["lm_head.weight"])
    assert ("lm_head.bias" in there) == (name == "gptj")
    assert not there.get("lm_head.bias", torch.zeros(1)).any()
    assert_same(loaded(cs_to_hf(family, made, lazies(there), headless=True)), body)


def test_a_large_head_is_the_same_whichever_rows_are_read() -> None:
    family = family_named("gptj")
    made = architecture(family, vocab_size=3000)
    body = {n.removeprefix("transformer."): t for n, t in sample(family, made).items() if n.startswith("tr")}
    mapped = hf_to_cs(family, made, lazies(body), headless=True)
    head = next(lazy for lazy in mapped.tensors if lazy.name == "lm_head.weight")
    assert torch.equal(head.whole()[1000:2100], head.read_rows(1000, 2100))
    assert head.whole().unique().numel() > 40_000
