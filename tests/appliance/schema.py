"""Which keys a params file may have, by release, and of which kind their values are.

Written from what is published of the releases, not from what this project writes: a file with a key or a kind of value
that the release does not know must fail here as it would there.
"""

from __future__ import annotations

from typing import Any

from appliance.kinds import BadParamsError, Kinds, check_part, check_section, check_sizes, check_steps, keys
from appliance.trainer_schema import check_trainer

Release = tuple[int, int]

_READER = {
    **keys("str", "data_processor data_subset"),
    **keys("str|str*", "data_dir"),
    **keys("int", "vocab_size max_sequence_length batch_size shuffle_seed shuffle_buffer num_workers prefetch_factor"),
    **keys("bool", "shuffle drop_last persistent_workers"),
}
_READER_2_0 = {
    **keys("bool", "repeat use_multiple_workers use_vsl use_worker_cache sort_files pad_last"),
    **keys("any", "features_list mixture dataset_map_fn data_transforms"),
    **keys("int", "num_samples micro_batch_size"),
}
_MODEL = {
    **keys("int", "vocab_size hidden_size num_heads num_hidden_layers max_position_embeddings filter_size rotary_dim"),
    **keys("str", "position_embedding_type attention_type nonlinearity loss_scaling attention_module"),
    **keys(
        "float", "embedding_dropout_rate attention_dropout_rate residual_dropout_rate layer_norm_epsilon loss_weight"
    ),
    **keys("float", "initializer_range"),
    **keys("bool", "share_embedding_weights use_projection_bias_in_attention use_ffn_bias_in_attention use_ffn_bias"),
    **keys("bool", "use_bias_in_output use_untied_layer_norm mixed_precision attention_softmax_fp32"),
    **keys("bool", "compute_eval_metrics"),
    **keys("any", "embedding_initializer initializer output_layer_initializer ffn_initializer"),
    **keys("any", "ffn_output_layer_initializer"),
}
_OPTIMIZER = {
    **keys("str", "optimizer_type"),
    **keys("float", "eps beta1 beta2 max_gradient_norm max_gradient_value min_loss_scale max_loss_scale"),
    **keys("float", "initial_loss_scale"),
    **keys("bool", "correct_bias log_summaries amsgrad"),
    **keys("float*", "betas"),
    **keys("int", "steps_per_increase grad_accum_steps"),
    **keys("any", "learning_rate loss_scaling_factor"),
}
_RUNCONFIG = {
    **keys(
        "int", "max_steps num_steps num_epochs steps_per_epoch log_steps checkpoint_steps eval_steps eval_frequency"
    ),
    **keys("int", "seed num_csx num_workers_per_csx num_wgt_servers num_act_servers num_replicas job_time_sec"),
    **keys("int", "keep_checkpoint_max save_summary_steps main_process_id transfer_processes save_stream_size"),
    **keys("str", "checkpoint_path compile_dir credentials_path mgmt_address mgmt_namespace mode model_dir logging"),
    **keys("str", "debug_args_path dist_addr dist_backend init_method target_device service_dir variant"),
    **keys("str", "autogen_policy execution_strategy"),
    **keys("bool", "compile_only validate_only autoload_last_checkpoint check_loss_values disable_version_check"),
    **keys("bool", "enable_distributed enable_summaries experimental_api is_pretrained_checkpoint multireplica"),
    **keys("bool", "save_initial_checkpoint save_losses show_debug_metrics skip_train_recv_activations"),
    **keys("bool", "sync_batchnorm use_appliance_data use_cs_grad_accum use_cstorch_optimizer_step"),
    **keys("str*", "mount_dirs python_paths job_labels"),
}
_RUNCONFIG_2_0 = {
    **keys("bool", "disable_strict_checkpoint_loading drop_data dump_activations lazy_initialization"),
    **keys("bool", "log_input_summaries enable_act_frequency"),
    **keys("str", "load_checkpoint_states summary_dir job_priority wsc_log_level debug_args"),
    **keys("int", "max_checkpoints precision_opt_level retrace_every_iteration act_memory_gi cmd_memory_gi"),
    **keys("int", "wgt_memory_gi wrk_memory_gi compile_crd_memory_gi execute_crd_memory_gi"),
    **keys("any", "ini fabric_type_blacklist op_profiler_config experimental"),
}


def release_of(text: str) -> Release:
    """`2.10` as numbers."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def check(content: Any, release: Release) -> None:
    """Refuse what the release would refuse.

    Raises:
        BadParamsError: naming the key.
    """
    if not isinstance(content, dict):
        raise BadParamsError("the params file has no sections")
    if release >= (2, 3):
        check_trainer(content, release, model=_model(release), reader={**_READER, **_READER_2_0})
        return
    kinds = {"train_input": _reader(release), "eval_input": _reader(release), "model": _model(release)}
    kinds |= {"optimizer": _optimizer(release), "runconfig": _runconfig(release)}
    for name, section in content.items():
        if name not in kinds:
            raise BadParamsError(f"unexpected section {name!r}")
        check_section(section, kinds[name], name)
    for name in ("train_input", "model", "optimizer", "runconfig"):
        if name not in content:
            raise BadParamsError(f"section {name!r} is missing")
    _check_schedule(content["optimizer"].get("learning_rate"), release)
    check_sizes(content["model"], "model")
    check_steps(content["runconfig"], "runconfig", content["runconfig"].get("checkpoint_steps"))


def _check_schedule(found: Any, release: Release) -> None:
    length = "steps" if release < (2, 0) else "total_iters"
    for place, part in enumerate(found if isinstance(found, list) else []):
        where = f"optimizer.learning_rate[{place}]"
        options = {key: value for key, value in part.items() if key != "scheduler"}
        check_part(str(part.get("scheduler")), options, length, where)


def _reader(release: Release) -> Kinds:
    return _READER if release < (2, 0) else {**_READER, **_READER_2_0}


def _model(release: Release) -> Kinds:
    found = {**_MODEL}
    if release < (2, 0):
        found |= keys("bool", "use_biasless_norm")
    else:
        found |= keys("str", "norm_type fp16_type")
    if release >= (2, 1):
        found |= {**keys("str", "pos_scaling_type"), **keys("float", "pos_scaling_factor rope_theta")}
    if release >= (2, 3):
        found |= keys("any", "mup_base_hidden_size mup_base_filter_size embeddings_scale scale_qk_dot_by_d")
        found |= keys("any", "attention_logits_alpha output_logits_alpha scale_output_logits_by_d fold_rope_consts")
        del found["fp16_type"], found["mixed_precision"]
    return found | (keys("str", "name") if release >= (2, 4) else {})


def _optimizer(release: Release) -> Kinds:
    return {**_OPTIMIZER, **keys("float", "weight_decay_rate" if release < (2, 0) else "weight_decay")}


def _runconfig(release: Release) -> Kinds:
    if release < (2, 0):
        newer = ("keep_checkpoint_max",) if release >= (1, 9) else ()
        return {key: kind for key, kind in _RUNCONFIG.items() if key not in newer}
    gone = ("keep_checkpoint_max", "is_pretrained_checkpoint")
    return {key: kind for key, kind in {**_RUNCONFIG, **_RUNCONFIG_2_0}.items() if key not in gone}
