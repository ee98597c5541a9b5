"""GPT-J: one norm per block shared by attention and feed-forward, interleaved rotary embedding, bias on the head.

Names: Hugging Face `GPTJForCausalLM`; Cerebras Model Zoo `gptj`.
"""

from __future__ import annotations

from regraft.errors import InvalidDataError
from regraft.families.base import Architecture, Config, Family, Tensor
from regraft.families.config import check_heads, flag, integer, number, text

_HF = "transformer.h.{n}."
_CS = "transformer_decoder.layers.{n}."
_OWN = "layers.{n}."


def _read_config(config: Config) -> Architecture:
    if not flag(config, "scale_attn_weights", True):
        raise InvalidDataError("unscaled attention is not GPT-J", field="config.json: scale_attn_weights", value=False)
    if not flag(config, "rotary", True):
        raise InvalidDataError(
            "GPT-J without rotary embedding is not supported", field="config.json: rotary", value=False
        )
    hidden = integer(config, "n_embd", 4096)
    heads = integer(config, "n_head", 16)
    rotary = integer(config, "rotary_dim", 64)
    check_heads(hidden, heads, rotary)
    return Architecture(
        family="gptj",
        vocab_size=integer(config, "vocab_size", 50400),
        hidden_size=hidden,
        num_layers=integer(config, "n_layer", 28),
        num_heads=heads,
        filter_size=integer(config, "n_inner", 4 * hidden),
        max_position_embeddings=integer(config, "n_positions", 2048),
        rotary_dim=rotary,
        activation=text(config, "activation_function", "gelu_new"),
        layer_norm_epsilon=number(config, "layer_norm_epsilon", 1e-5),
        initializer_range=number(config, "initializer_range", 0.02),
        embedding_dropout=number(config, "embd_pdrop", 0.0),
        attention_dropout=number(config, "attn_pdrop", 0.0),
        residual_dropout=number(config, "resid_pdrop", 0.0),
        tied_embeddings=flag(config, "tie_word_embeddings", False),
        rotary_interleaved=True,
        separate_ffn_norm=False,
        attention_bias=False,
        lm_head_bias=True,
    )


FAMILY = Family(
    name="gptj",
    model_type="gptj",
    architectures=("GPTJForCausalLM",),
    read_config=_read_config,
    tensors=(
        Tensor(
            ("embedding.weight",), "transformer.wte.weight", ("embedding_layer.word_embeddings.weight",), ("V", "H")
        ),
        Tensor((_OWN + "norm1.weight",), _HF + "ln_1.weight", (_CS + "norm1.weight",), ("H",)),
        Tensor((_OWN + "norm1.bias",), _HF + "ln_1.bias", (_CS + "norm1.bias",), ("H",)),
        Tensor(
            (_OWN + "q.weight",), _HF + "attn.q_proj.weight", (_CS + "self_attn.proj_q_dense_layer.weight",), ("H", "H")
        ),
        Tensor(
            (_OWN + "k.weight",), _HF + "attn.k_proj.weight", (_CS + "self_attn.proj_k_dense_layer.weight",), ("H", "H")
        ),
        Tensor(
            (_OWN + "v.weight",), _HF + "attn.v_proj.weight", (_CS + "self_attn.proj_v_dense_layer.weight",), ("H", "H")
        ),
        Tensor(
            (_OWN + "out.weight",),
            _HF + "attn.out_proj.weight",
            (_CS + "self_attn.proj_output_dense_layer.weight",),
            ("H", "H"),
        ),
        Tensor((_OWN + "up.weight",), _HF + "mlp.fc_in.weight", (_CS + "ffn.ffn.0.linear_layer.weight",), ("F", "H")),
        Tensor((_OWN + "up.bias",), _HF + "mlp.fc_in.bias", (_CS + "ffn.ffn.0.linear_layer.bias",), ("F",)),
        Tensor(
            (_OWN + "down.weight",), _HF + "mlp.fc_out.weight", (_CS + "ffn.ffn.1.linear_layer.weight",), ("H", "F")
        ),
        Tensor((_OWN + "down.bias",), _HF + "mlp.fc_out.bias", (_CS + "ffn.ffn.1.linear_layer.bias",), ("H",)),
        Tensor(("norm.weight",), "transformer.ln_f.weight", ("transformer_decoder.norm.weight", "ln_f.weight"), ("H",)),
        Tensor(("norm.bias",), "transformer.ln_f.bias", ("transformer_decoder.norm.bias", "ln_f.bias"), ("H",)),
        Tensor(("head.weight",), "lm_head.weight", ("lm_head.weight",), ("V", "H")),
        Tensor(("head.bias",), "lm_head.bias", ("lm_head.bias",), ("V",)),
    ),
    ignored_hf=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias|embed_positions)",),
    config_to_cs={
        "vocab_size": "vocab_size",
        "n_positions": "max_position_embeddings",
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_heads",
        "n_inner": "filter_size",
        "rotary_dim": "rotary_dim",
        "activation_function": "nonlinearity",
        "embd_pdrop": "embedding_dropout_rate",
        "attn_pdrop": "attention_dropout_rate",
        "resid_pdrop": "residual_dropout_rate",
        "layer_norm_epsilon": "layer_norm_epsilon",
        "initializer_range": "initializer_range",
        "tie_word_embeddings": "share_embedding_weights",
    },
    cs_constants={
        "use_bias_in_output": True,
        "use_projection_bias_in_attention": False,
        "use_ffn_bias_in_attention": False,
        "use_ffn_bias": True,
        "use_untied_layer_norm": False,
        "attention_type": "scaled_dot_product",
    },
    hf_constants={"use_bias_in_output": True},
)
