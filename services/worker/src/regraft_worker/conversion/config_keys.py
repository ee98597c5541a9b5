"""The keys of a Cerebras `model:` section: what they mean here, and what each release changes in them.

Every key belongs to one of four groups: it comes from the architecture, it is fixed in every model we know, it steers
training without changing what the weights mean, or it is unknown. An unknown key may change the model, so it stops a
conversion unless the user has it dropped.
"""

from __future__ import annotations

from collections.abc import Mapping

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import Family
from regraft_worker.conversion.formats import Format

FROM_ARCHITECTURE: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_heads": "num_heads",
    "filter_size": "filter_size",
    "max_position_embeddings": "max_position_embeddings",
    "rotary_dim": "rotary_dim",
    "nonlinearity": "activation",
    "embedding_dropout_rate": "embedding_dropout",
    "attention_dropout_rate": "attention_dropout",
    "residual_dropout_rate": "residual_dropout",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "share_embedding_weights": "tied_embeddings",
}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_heads", "filter_size", "max_position_embeddings")
# What the Model Zoo takes for a key that its YAML does not have.
DEFAULTS: Mapping[str, object] = {
    "nonlinearity": "gelu",
    "embedding_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "residual_dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "share_embedding_weights": True,
    "use_untied_layer_norm": False,
    "use_projection_bias_in_attention": True,
    "use_ffn_bias_in_attention": True,
    "use_ffn_bias": False,
    "use_bias_in_output": False,
    "pos_scaling_factor": 1.0,
}
# Scales of maximal update parametrisation at their neutral values; another value is another model.
_MUP: Mapping[str, object] = {
    "mup_base_hidden_size": None,
    "mup_base_filter_size": None,
    "embeddings_scale": 1.0,
    "scale_qk_dot_by_d": False,
    "attention_logits_alpha": 1.0,
    "output_logits_alpha": None,
}
# The same in every supported model; a file may leave them out.
FIXED: Mapping[str, object] = {
    "position_embedding_type": "rotary",
    "attention_type": "scaled_dot_product",
    "attention_module": "aiayn_attention",
    "norm_type": "layernorm",
    "use_biasless_norm": False,
    "embedding_layer_norm": False,
    "rope_theta": 10000,
    "pos_scaling_type": "linear",
    "pos_scaling_factor": 1.0,
    **_MUP,
}
# How to train and compute; a Hugging Face config has no place for them.
TRAINING = frozenset(
    {
        "attention_softmax_fp32",
        "compute_eval_metrics",
        "embedding_initializer",
        "ffn_initializer",
        "ffn_output_layer_initializer",
        "fold_rope_consts",
        "fp16_type",
        "initializer",
        "loss_scaling",
        "loss_weight",
        "mixed_precision",
        "output_layer_initializer",
        "scale_output_logits_by_d",
    }
)
# Keys of any Hugging Face model, and of old GPT-J and GPT-NeoX files, that say nothing about the weights.
_HF_GENERAL = frozenset(
    {
        "architectures",
        "attention_probs_dropout_prob",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_bias_in_output",
        "use_cache",
    }
)
_HF_CHECKED = frozenset(
    {
        "attention_bias",
        "partial_rotary_factor",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "rotary",
        "rotary_emb_base",
        "rotary_pct",
        "scale_attn_weights",
        "use_parallel_residual",
    }
)


def unmatched_hf(config: Mapping[str, object], family: Family) -> tuple[str, ...]:
    """The keys of a Hugging Face config that neither the family nor Hugging Face in general is known to have."""
    known = {*family.config_to_cs, *_HF_GENERAL, *_HF_CHECKED}
    return tuple(sorted(key for key in config if key not in known and not key.startswith(("_", "summary_"))))


def unmatched_cs(section: Mapping[str, object], family: Family) -> tuple[str, ...]:
    """The keys of a `model:` section that are in none of the known groups."""
    known = {*FROM_ARCHITECTURE, *FIXED, *family.cs_constants, *TRAINING, "name"}
    return tuple(sorted(section.keys() - known))


def refuse_unmatched(unknown: tuple[str, ...], *, drop: bool) -> None:
    """Stop at keys nobody knows, unless they are to be dropped.

    Raises:
        InvalidDataError: naming all of them.
    """
    if unknown and not drop:
        raise InvalidDataError(
            f"the config has keys that cannot be converted: {', '.join(unknown)}",
            field="--config",
            value=len(unknown),
            remedy="Give --drop-unmatched-keys to go on without them, if you know that they change nothing.",
            reason="unmatched_keys",
        )


def section_of_release(
    section: Mapping[str, object], *, family: Family, target: Format
) -> tuple[dict[str, object], tuple[str, ...]]:
    """A section of any release in the words of another, and the keys that release does not know.

    The constants are checked already, so what is removed here has its neutral value.

    Raises:
        InvalidInputError: the release has no word for something that the model needs.
    """
    release = target.release
    assert release is not None, "a Cerebras format"
    written = dict(section)
    _rename_norm(written, before_2_0=release < (2, 0))
    gone = [key for key in _unknown_to(release) if key in written]
    if family.scales_rope and release >= (2, 1):
        written.setdefault("pos_scaling_factor", 1.0)
    elif written.get("pos_scaling_factor", 1.0) != 1.0:
        raise InvalidInputError(
            "releases before 2.1 do not scale the rotary embedding",
            field="--tgt-fmt",
            value=target.name,
            remedy="Convert to cs-2.1 or later, or to hf.",
            reason="not_expressible_in_cs",
        )
    for key in gone:
        del written[key]
    if release >= (2, 4):
        written["name"] = family.cs_name
    return written, tuple(gone)


def _rename_norm(section: dict[str, object], *, before_2_0: bool) -> None:
    if before_2_0 and section.pop("norm_type", None) is not None:
        section["use_biasless_norm"] = False
    if not before_2_0 and section.pop("use_biasless_norm", None) is not None:
        section["norm_type"] = "layernorm"


def _unknown_to(release: tuple[int, int]) -> list[str]:
    """Keys that came after a release, or went before it (then into `trainer.init.precision`)."""
    keys: list[str] = []
    if release < (2, 0):
        keys.append("fp16_type")
    if release < (2, 1):
        keys += ["pos_scaling_factor", "pos_scaling_type"]
    if release < (2, 3):
        keys += [*_MUP, "scale_output_logits_by_d"]
    else:
        keys += ["fp16_type", "mixed_precision"]
    if release < (2, 4):
        keys.append("name")
    return keys
