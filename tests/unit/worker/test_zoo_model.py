"""`model` sections of params files: understood, or refused with the key's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.errors import RegraftError
from regraft_worker.conversion.cs_config import read_section
from regraft_worker.zoo.keys import Era
from regraft_worker.zoo.model import ZooModel, read_model

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"
GPTJ = read_section(ASSETS / "cs_ckpt" / "gptj_v512_cs-2.9.yaml")
NEOX = read_section(ASSETS / "cs_ckpt" / "neox_par_cs-2.9.yaml")


def read(section: dict[str, Any], *, era: Era = "2.10", device: str = "cpu") -> ZooModel:
    return read_model(section, era=era, device=device)


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
    found = read(read_section(ASSETS / path))

    assert found.family.name == found.architecture.family == family
    assert (found.architecture.hidden_size, found.architecture.num_layers) == (64, 2)
    assert "loss" not in found.training


@pytest.mark.parametrize("base", [GPTJ, NEOX], ids=["gptj", "gpt-neox"])
@pytest.mark.parametrize(
    "change",
    [
        {"norm_type": "rmsnorm"},
        {"use_biasless_norm": True},
        {"position_embedding_type": "alibi"},
        {"position_embedding_type": "learned"},
        {"num_relative_attention_buckets": 32},
        {"rope_theta": 500000},
        {"attention_type": "dot_product"},
        {"attention_module": "multiquery_attention"},
        {"nonlinearity": "swiglu"},
        {"pos_scaling_type": "yarn"},
        {"mup_base_hidden_size": 256},
        {"mup_base_filter_size": 256},
        {"embeddings_scale": 2.0},
        {"scale_qk_dot_by_d": True},
        {"attention_logits_alpha": 0.5},
        {"output_logits_alpha": 0.5},
        {"embedding_layer_norm": True},
        {"loss_scaling": "mean"},
        {"loss_weight": 0},
        {"attention_softmax_fp32": False},
        {"mixed_precision": "yes"},
        {"initializer": {"name": "lecun_normal"}},
        {"ffn_initializer": 0.02},
        {"num_experts": 8},
        {"hidden_size": "64"},
        {"vocab_size": None},
        {"embedding_dropout_rate": -0.1},
        {"attention_dropout_rate": 1.0},
        {"residual_dropout_rate": "much"},
    ],
    ids=lambda change: ", ".join(f"{key} {value}" for key, value in change.items()),
)
def test_what_the_decoder_does_not_have_is_refused_by_its_key(base: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(RegraftError) as caught:
        read({**base, **change})

    (key,) = change
    assert caught.value.field.startswith(f"model.{key}")


@pytest.mark.parametrize("base", [GPTJ, NEOX], ids=["gptj", "gpt-neox"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_projection_bias_in_attention": "yes"}, "use_projection_bias_in_attention"),
        ({"use_ffn_bias": False}, "use_ffn_bias"),
        ({"name": "gpt2"}, "name"),
        ({"num_heads": 0}, "num_heads"),
        ({"rotary_dim": 7}, "rotary"),
        ({"rotary_dim": 999}, "rotary"),
    ],
)
def test_switches_and_sizes_of_no_model_are_refused(base: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(RegraftError) as caught:
        read({**base, **change})
    assert said in f"{caught.value.field} {caught.value}"


def test_a_key_that_is_null_is_left_out_and_a_number_may_be_text() -> None:
    nulls = {"rotary_dim": None, "initializer": None, "mup_base_hidden_size": None, "fp16_type": None}
    left_out = {key: value for key, value in GPTJ.items() if key != "rotary_dim"}
    assert read({**GPTJ, **nulls}).config == read(left_out).config
    assert read({**GPTJ, "layer_norm_epsilon": "1e-5"}).config == read({**GPTJ, "layer_norm_epsilon": 1e-5}).config


def test_keys_of_compiler_and_reports_are_named() -> None:
    quiet = {"fold_rope_consts": True, "compute_eval_metrics": False, "scale_output_logits_by_d": True}
    found = read({**GPTJ, **quiet})
    assert set(found.no_effect) == {f"model.{key}" for key in quiet}
    assert found.config == read(GPTJ).config


@pytest.mark.parametrize(
    ("keys", "device", "precision"),
    [
        ({}, "cpu", "fp32"),
        ({"mixed_precision": True}, "cpu", "bf16"),
        ({"mixed_precision": True}, "gpu", "fp16"),
        ({"mixed_precision": True, "fp16_type": "cbfloat16"}, "gpu", "bf16"),
        ({"mixed_precision": True, "fp16_type": "float16"}, "cpu", "bf16"),
        ({"mixed_precision": False, "fp16_type": "bfloat16"}, "gpu", "fp32"),
    ],
)
def test_precision(keys: dict[str, Any], device: str, precision: str) -> None:
    assert read({**GPTJ, **keys}, era="1.8", device=device).training["precision"] == precision


def test_a_weight_beside_num_tokens_means_what_its_release_makes_of_it() -> None:
    early, late = (read({**GPTJ, "loss_weight": 0.002}, era=era) for era in ("1.8", "2.0"))
    asked = read({**GPTJ, "loss_scaling": "batch_size", "loss_weight": 0.002})

    assert early.training["loss"] == asked.training["loss"] == {"scaling": "batch_size", "weight": 0.002}
    assert "loss" not in late.training
    assert "taken as batch_size" in early.notes[0]
    assert "taken as 1.0" in late.notes[0]
    assert asked.notes == ()


def test_a_rate_that_the_config_of_neox_cannot_say_is_kept() -> None:
    found = read({**NEOX, "embedding_dropout_rate": 0.2, "residual_dropout_rate": 0.1})
    assert found.training["dropout"] == {"embedding": 0.2}
    assert "dropout" not in read({**GPTJ, "embedding_dropout_rate": 0.2, "residual_dropout_rate": 0.1}).training
