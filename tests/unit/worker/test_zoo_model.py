"""`model` sections of params files: understood, or refused with the key's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.errors import InvalidDataError
from regraft.specs import LossSpec
from regraft_worker.conversion.cs_config import read_section
from regraft_worker.trainer.zoo_model import read_zoo_model

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"
GPTJ = read_section(ASSETS / "cs_ckpt" / "gptj_v512_cs-2.9.yaml")
NEOX = read_section(ASSETS / "cs_ckpt" / "neox_par_cs-2.9.yaml")


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("release-1.8.0/params_flat.yaml", "gptj"),
        ("train/base_tb.yaml", "gptj"),
        ("cs_ckpt/gptj_v512_cs-1.8.yaml", "gptj"),
        ("cs_ckpt/neox_par_cs-2.9.yaml", "gpt-neox"),
    ],
)
def test_files_of_both_eras_are_understood(path: str, family: str) -> None:
    found = read_zoo_model(read_section(ASSETS / path))

    assert found.family.name == found.architecture.family == family
    assert (found.architecture.hidden_size, found.architecture.num_layers) == (64, 2)
    assert found.loss == LossSpec()


@pytest.mark.parametrize("base", [GPTJ, NEOX], ids=["gptj", "gpt-neox"])
@pytest.mark.parametrize(
    "change",
    [
        {"norm_type": "rmsnorm"},
        {"use_biasless_norm": True},
        {"position_embedding_type": "alibi"},
        {"position_embedding_type": "learned"},
        {"rope_theta": 500000},
        {"attention_type": "dot_product"},
        {"attention_module": "multiquery_attention"},
        {"use_projection_bias_in_attention": "yes"},
        {"use_ffn_bias": False},
        {"nonlinearity": "swiglu"},
        {"pos_scaling_type": "yarn"},
        {"mup_base_hidden_size": 256},
        {"scale_qk_dot_by_d": True},
        {"loss_scaling": "mean"},
        {"loss_weight": 0},
        {"attention_softmax_fp32": False},
        {"initializer": {"name": "lecun_normal"}},
        {"initializer": {"name": "normal", "deviation": 1}},
        {"ffn_initializer": 0.02},
        {"embedding_initializer": {"std": "1e-5"}},
        {"num_experts": 8},
        {"hidden_size": "64"},
        {"num_heads": 0},
        {"rotary_dim": 7},
        {"embedding_dropout_rate": -0.1},
    ],
    ids=lambda change: ", ".join(f"{key} {value}" for key, value in change.items()),
)
def test_what_the_decoder_does_not_have_is_refused_by_name(base: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(InvalidDataError) as caught:
        read_zoo_model({**base, **change})

    (key,) = change
    aliases = {"rotary_dim": "rotary", "num_heads": "heads", "embedding_dropout_rate": "pdrop"}
    said = f"{caught.value.field} {caught.value}"
    assert key in said or aliases.get(key, key) in said or (key == "embedding_dropout_rate" and "dropout" in said)


def test_a_weight_beside_num_tokens_means_what_its_release_makes_of_it() -> None:
    early = read_zoo_model({**GPTJ, "mixed_precision": True, "loss_weight": 0.002})
    late = read_zoo_model({**GPTJ, "loss_weight": 0.002})
    asked = read_zoo_model({**GPTJ, "loss_scaling": "batch_size", "loss_weight": 0.002})

    assert early.loss == asked.loss == LossSpec(scaling="batch_size", weight=0.002)
    assert late.loss == LossSpec()
    assert "read as batch_size" in early.notes[0]
    assert "read as 1.0" in late.notes[0]
    assert asked.notes == ()


def test_initializers_of_the_published_recipe() -> None:
    text = """
    initializer: {name: truncated_normal, mean: 0.0, std: 0.015625}
    embedding_initializer: {name: truncated_normal, std: 0.00446068668}
    output_layer_initializer: {name: truncated_normal, std: 0.00111607142, a: -0.001, b: 0.001}
    """
    found = read_zoo_model({**GPTJ, **yaml.safe_load(text)}).initializers

    assert (found.projection.std, found.projection.low, found.projection.high) == (0.015625, -0.03125, 0.03125)
    assert found.embedding.std == 0.00446068668
    assert found.attention_output == found.up == found.down
    assert (found.down.low, found.down.high) == (-0.001, 0.001)
    assert (found.head.kind, found.head.std) == ("normal", 0.02)


def test_a_feed_forward_has_its_own_where_it_is_named() -> None:
    keys = {"ffn_initializer": {"name": "uniform", "a": -1, "b": 1}, "ffn_output_layer_initializer": "zeros"}
    found = read_zoo_model({**NEOX, **keys}).initializers

    assert (found.up.kind, found.up.low, found.up.high) == ("uniform", -1.0, 1.0)
    assert (found.down.kind, found.down.mean) == ("constant", 0.0)
    assert found.attention_output.std == 0.02
