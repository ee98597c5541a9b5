"""Our decoder and `transformers`, same weights and ids, fp32: the same logits.

Weights are large (matrices 0.3 N(0,1)): with the usual 0.02 a wrong rotary convention hides below any tolerance. The
planted mistakes at the end show that the tolerance tells right from wrong.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from regraft_worker.model import Decoder
from regraft_worker.trainer.weights import describe, load_model

TOLERANCE = 1e-4
SIZES = {"vocab_size": 160, "bos_token_id": 0, "eos_token_id": 0}


def _gptj(**options: object) -> GPTJConfig:
    return GPTJConfig(**SIZES, n_embd=64, n_layer=3, n_head=4, n_positions=48, **{"rotary_dim": 8, **options})


def _neox(**options: object) -> GPTNeoXConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
    return GPTNeoXConfig(**SIZES, **sizes, max_position_embeddings=48, **options)


def _rotary(share: float, theta: float = 10000.0) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}}


def _stretched(factor: float) -> dict[str, object]:
    rope = {"rope_type": "linear", "factor": factor, "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    return {"rope_parameters": rope}


MODELS = {
    "gptj": _gptj(),
    "gptj, whole head rotated": _gptj(rotary_dim=16),
    "gptj, exact gelu": _gptj(activation_function="gelu"),
    "gptj, wide feed-forward": _gptj(n_inner=320),
    "gptj, tied": _gptj(tie_word_embeddings=True),
    "neox": _neox(),
    "neox, sequential": _neox(use_parallel_residual=False),
    "neox, half the head rotated, other base": _neox(**_rotary(0.5, 500.0)),
    "neox, positions stretched": _neox(**_stretched(4.0)),
    "neox, gelu_fast": _neox(hidden_act="gelu_fast"),
    "neox, relu": _neox(hidden_act="relu"),
    "neox, quick_gelu": _neox(hidden_act="quick_gelu"),
    "neox, tied": _neox(tie_word_embeddings=True),
    "neox, attention without biases": _neox(attention_bias=False),
    "neox, sequential, half the head rotated": _neox(use_parallel_residual=False, **_rotary(0.5)),
}


def _reference(config: PretrainedConfig) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(7)
    kind = GPTJForCausalLM if config.model_type == "gptj" else GPTNeoXForCausalLM
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.05 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise if parameter.ndim == 1 else 0.3 * noise)
    return model


def _ours(reference: PreTrainedModel, folder: Path) -> Decoder:
    # Through a saved folder: names in memory change from one release of transformers to the next, files do not.
    reference.save_pretrained(folder)
    return load_model(folder, describe(folder), device="cpu").eval()


def _difference(reference: PreTrainedModel, model: Decoder) -> float:
    ids = torch.randint(0, 160, (3, 48), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return float((reference(ids).logits - model.logits(model(ids.int()))).abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    reference = _reference(MODELS[name])
    model = _ours(reference, tmp_path)

    assert _difference(reference, model) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("gptj", {"rotary_interleaved": False}),
        ("gptj", {"activation": "gelu"}),
        ("gptj", {"rotary_dim": 4}),
        ("neox", {"rotary_interleaved": True}),
        ("neox", {"activation": "gelu_new"}),
        ("neox", {"parallel_residual": False}),
        ("neox", {"rope_theta": 9000.0}),
        ("neox, half the head rotated, other base", {"rotary_dim": 4}),
        ("neox, sequential", {"parallel_residual": True}),
        ("neox, positions stretched", {"rope_scaling_factor": 2.0}),
        ("neox", {"layer_norm_epsilon": 1e-3}),
    ],
)
def test_a_planted_mistake_exceeds_the_tolerance(name: str, mistake: dict[str, object], tmp_path: Path) -> None:
    reference = _reference(MODELS[name])
    model = _ours(reference, tmp_path)
    wrong = Decoder(replace(model.architecture, **mistake)).eval()  # type: ignore[arg-type]
    wrong.load_state_dict(model.state_dict())

    assert _difference(reference, wrong) > 2 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("gptj", {"layers.1.up.bias": None}),
        ("gptj", {"head.bias": None}),
        ("neox", {"layers.1.q.bias": None}),
        ("neox", {"layers.2.out.bias": None}),
        ("neox", {"layers.0.norm1.weight": "layers.0.norm2.weight"}),
        ("neox, sequential", {"layers.2.norm1.bias": "layers.2.norm2.bias"}),
        ("gptj", {"layers.0.q.weight": "layers.0.k.weight"}),
    ],
)
def test_a_missing_bias_or_a_swapped_weight_exceeds_the_tolerance(
    name: str, mistake: dict[str, str | None], tmp_path: Path
) -> None:
    reference = _reference(MODELS[name])
    model = _ours(reference, tmp_path)
    with torch.no_grad():
        for here, there in mistake.items():
            wrong = model.get_parameter(here)
            other = torch.zeros_like(wrong) if there is None else model.get_parameter(there).clone()
            if there is not None:
                model.get_parameter(there).copy_(wrong)
            wrong.copy_(other)

    assert _difference(reference, model) > 2 * TOLERANCE


def test_a_later_token_changes_no_earlier_logit(tmp_path: Path) -> None:
    model = _ours(_reference(MODELS["neox"]), tmp_path)
    ids = torch.arange(20, dtype=torch.int32)[None]
    changed = ids.clone()
    changed[0, 12] = 99

    with torch.no_grad():
        before, after = model.logits(model(ids)), model.logits(model(changed))

    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])
