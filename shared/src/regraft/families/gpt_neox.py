"""GPT-NeoX (also Pythia): two norms per block, half-split rotary embedding on part of each head, biases everywhere
but on the head, and in attention unless the config says otherwise.

Names: Hugging Face `GPTNeoXForCausalLM`; Cerebras Model Zoo `gpt-neox`.
"""

from __future__ import annotations

from collections.abc import Mapping

from regraft.errors import InvalidDataError
from regraft.families.base import Architecture, Config, Family, Tensor
from regraft.families.config import check_heads, flag, integer, number, text

_HF = "gpt_neox.layers.{n}."
_CS = "transformer_decoder.layers.{n}."
_OWN = "layers.{n}."
_PROJECTIONS = ("proj_q_dense_layer", "proj_k_dense_layer", "proj_v_dense_layer")


def _rope(config: Config) -> tuple[float, float, float]:
    """Share of each head that is rotated, theta and linear scaling; newer configs keep all in `rope_parameters`."""
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise InvalidDataError("must be an object", field="config.json: rope_parameters", value=rope)
    share = number(
        config if "rotary_pct" in config else rope,
        "rotary_pct" if "rotary_pct" in config else "partial_rotary_factor",
        0.25,
    )
    theta = number(
        config if "rotary_emb_base" in config else rope,
        "rotary_emb_base" if "rotary_emb_base" in config else "rope_theta",
        10000.0,
    )
    return share, theta, _scaling(config.get("rope_scaling") or rope)


def _scaling(rope: object) -> float:
    """The factor of linear scaling, in the words of any release of transformers; 1 for none."""
    if not isinstance(rope, Mapping):
        raise InvalidDataError("must be an object", field="config.json: rope_scaling", value=rope)
    kind = text(rope, "rope_type" if "rope_type" in rope else "type", "default")
    factor = number(rope, "factor", 1.0)
    if kind == "default":
        return 1.0
    if kind != "linear" or factor < 1.0:
        raise InvalidDataError(
            "rotary embeddings can be scaled linearly, by a factor of at least 1, and in no other way",
            field="config.json: rope_scaling",
            value=dict(rope),
            remedy="Use a checkpoint without it.",
            reason="unsupported_model",
        )
    return factor


def _read_config(config: Config) -> Architecture:
    hidden = integer(config, "hidden_size", 6144)
    heads = integer(config, "num_attention_heads", 64)
    share, theta, scaling = _rope(config)
    rotary = int((hidden // heads) * share)
    check_heads(hidden, heads, rotary)
    return Architecture(
        family="gpt-neox",
        vocab_size=integer(config, "vocab_size", 50432),
        hidden_size=hidden,
        num_layers=integer(config, "num_hidden_layers", 44),
        num_heads=heads,
        filter_size=integer(config, "intermediate_size", 24576),
        max_position_embeddings=integer(config, "max_position_embeddings", 2048),
        rotary_dim=rotary,
        activation=text(config, "hidden_act", "gelu"),
        layer_norm_epsilon=number(config, "layer_norm_eps", 1e-5),
        initializer_range=number(config, "initializer_range", 0.02),
        rope_theta=theta,
        rope_scaling_factor=scaling,
        embedding_dropout=number(config, "hidden_dropout", 0.0),  # Hugging Face uses the one rate for both
        attention_dropout=number(config, "attention_dropout", 0.0),
        residual_dropout=number(config, "hidden_dropout", 0.0),
        tied_embeddings=flag(config, "tie_word_embeddings", False),
        rotary_interleaved=False,
        separate_ffn_norm=True,
        parallel_residual=flag(config, "use_parallel_residual", True),
        attention_bias=flag(config, "attention_bias", True),
        lm_head_bias=False,
    )


def _pair(own: str, hf: str, cs: str, weight: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """A weight and its bias, whose shape is the weight's first dimension."""
    return (
        Tensor((own + ".weight",), hf + ".weight", (cs + ".weight",), weight),  # type: ignore[arg-type]
        Tensor((own + ".bias",), hf + ".bias", (cs + ".bias",), weight[:1]),  # type: ignore[arg-type]
    )


def _fused(part: str, shape: tuple[str, ...]) -> Tensor:
    return Tensor(
        tuple(f"{_OWN}{name}.{part}" for name in "qkv"),
        f"{_HF}attention.query_key_value.{part}",
        tuple(f"{_CS}self_attn.{name}.{part}" for name in _PROJECTIONS),
        shape,  # type: ignore[arg-type]
        "fused_qkv",
    )


FAMILY = Family(
    name="gpt-neox",
    model_type="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    read_config=_read_config,
    tensors=(
        Tensor(
            ("embedding.weight",), "gpt_neox.embed_in.weight", ("embedding_layer.word_embeddings.weight",), ("V", "H")
        ),
        *_pair(_OWN + "norm1", _HF + "input_layernorm", _CS + "norm1", ("H",)),
        *_pair(_OWN + "norm2", _HF + "post_attention_layernorm", _CS + "norm3", ("H",)),
        _fused("weight", ("3H", "H")),
        _fused("bias", ("3H",)),
        *_pair(_OWN + "out", _HF + "attention.dense", _CS + "self_attn.proj_output_dense_layer", ("H", "H")),
        *_pair(_OWN + "up", _HF + "mlp.dense_h_to_4h", _CS + "ffn.ffn.0.linear_layer", ("F", "H")),
        *_pair(_OWN + "down", _HF + "mlp.dense_4h_to_h", _CS + "ffn.ffn.1.linear_layer", ("H", "F")),
        Tensor(
            ("norm.weight",),
            "gpt_neox.final_layer_norm.weight",
            ("transformer_decoder.norm.weight", "ln_f.weight"),
            ("H",),
        ),
        Tensor(
            ("norm.bias",), "gpt_neox.final_layer_norm.bias", ("transformer_decoder.norm.bias", "ln_f.bias"), ("H",)
        ),
        Tensor(("head.weight",), "embed_out.weight", ("lm_head.weight",), ("V", "H")),
    ),
    ignored_hf=(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    config_to_cs={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "max_position_embeddings": "max_position_embeddings",
        "initializer_range": "initializer_range",
        "num_hidden_layers": "num_hidden_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "filter_size",
        "hidden_act": "nonlinearity",
        "attention_dropout": "attention_dropout_rate",
        "hidden_dropout": "residual_dropout_rate",
        "layer_norm_eps": "layer_norm_epsilon",
        "tie_word_embeddings": "share_embedding_weights",
    },
    cs_constants={
        "use_untied_layer_norm": True,
        "use_projection_bias_in_attention": True,
        "use_ffn_bias_in_attention": True,
        "use_ffn_bias": True,
        "use_bias_in_output": False,
        "position_embedding_type": "rotary",
        "attention_type": "scaled_dot_product",
    },
    hf_constants={"rotary_emb_base": 10000, "use_parallel_residual": True},
    scales_rope=True,
)
