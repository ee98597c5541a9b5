"""Names of tensors in the three namings, and which models Cerebras can hold."""

from __future__ import annotations

import pytest

from regraft.families import FAMILIES, Architecture, Family, expected_tensors, family_named
from regraft.keymap import find_hf, is_ignored, rows, why_not_cs

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


def model(name: str, **config: object) -> tuple[Family, Architecture]:
    family = family_named(name)
    return family, family.read_config({**CONFIGS[name], **config})


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


def test_a_model_that_cerebras_has_not_is_explained() -> None:
    assert why_not_cs(model("gpt-neox")[1]) == ""
    assert "one after the other" in why_not_cs(model("gpt-neox", use_parallel_residual=False)[1])
    assert "rotary base is 500000" in why_not_cs(model("gpt-neox", rotary_emb_base=500000)[1])
    scaled = model("gpt-neox", rope_scaling={"type": "linear", "factor": 2.0})[1]
    assert "scaled by 2" in why_not_cs(scaled, (2, 0))
    assert why_not_cs(scaled, (2, 1)) == why_not_cs(scaled) == ""
