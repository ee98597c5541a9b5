"""Every key of the Model Zoo's params files is used, or known to change nothing, or refused by name.

The lists are those of the published configuration schemas and files; a key that is in none of our tables would be
refused as unknown, which is right for a misspelt one only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.errors import RegraftError
from regraft_worker.zoo import keys
from regraft_worker.zoo.keys import Era
from regraft_worker.zoo.model import read_model
from regraft_worker.zoo.params import read_params
from zoo_runs import ASSETS, TRAINER, here

MODEL: dict[str, Any] = {
    "attention_dropout_rate": 0.0,
    "attention_logits_alpha": 1.0,
    "attention_module": "aiayn_attention",
    "attention_softmax_fp32": True,
    "attention_type": "scaled_dot_product",
    "compute_eval_metrics": True,
    "embedding_dropout_rate": 0.0,
    "embedding_initializer": {"name": "truncated_normal", "mean": 0.0, "std": 0.0045, "a": -0.009, "b": 0.009},
    "embeddings_scale": 1.0,
    "ffn_initializer": {"name": "normal", "std": 0.02},
    "ffn_output_layer_initializer": {"name": "normal", "std": 0.02},
    "filter_size": 256,
    "fold_rope_consts": False,
    "fp16_type": "cbfloat16",
    "hidden_size": 64,
    "initializer": {"name": "uniform", "a": -0.1, "b": 0.1},
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "loss_scaling": "num_tokens",
    "loss_weight": 1.0,
    "max_position_embeddings": 128,
    "mixed_precision": True,
    "mup_base_filter_size": None,
    "mup_base_hidden_size": None,
    "nonlinearity": "gelu",
    "norm_type": "layernorm",
    "num_heads": 4,
    "num_hidden_layers": 2,
    "num_relative_attention_buckets": None,
    "output_layer_initializer": {"name": "zeros"},
    "output_logits_alpha": None,
    "pos_scaling_factor": 1.0,
    "pos_scaling_type": "linear",
    "position_embedding_type": "rotary",
    "residual_dropout_rate": 0.0,
    "rope_theta": 10000,
    "rotary_dim": 8,
    "scale_output_logits_by_d": True,
    "scale_qk_dot_by_d": False,
    "share_embedding_weights": False,
    "use_bias_in_output": True,
    "use_biasless_norm": False,
    "use_ffn_bias": True,
    "use_ffn_bias_in_attention": False,
    "use_projection_bias_in_attention": False,
    "use_untied_layer_norm": False,
    "vocab_size": 512,
}
"""A GPT-J in every word there is, each at a value that the decoder has."""
ELSEWHERE: dict[str, Any] = {
    "attention_logits_alpha": 2.0,
    "attention_module": "multiquery_attention",
    "attention_type": "dot_product",
    "embeddings_scale": 10.0,
    "mup_base_hidden_size": 256,
    "norm_type": "rmsnorm",
    "num_relative_attention_buckets": 32,
    "pos_scaling_factor": 2.0,
    "pos_scaling_type": "longrope",
    "position_embedding_type": "alibi",
    "rope_theta": 500000,
}
"""Values that the releases take and the decoder does not have."""

RUNCONFIG_1_8 = keys.words(
    "autogen_policy autoload_last_checkpoint check_loss_values checkpoint_path checkpoint_steps compile_dir "
    "compile_only credentials_path debug_args_path disable_version_check dist_addr dist_backend enable_distributed "
    "enable_summaries eval_frequency eval_steps execution_strategy experimental_api init_method "
    "is_pretrained_checkpoint job_labels job_time_sec keep_checkpoint_max log_steps logging main_process_id "
    "max_steps mgmt_address mgmt_namespace mode model_dir mount_dirs multireplica num_act_servers num_csx "
    "num_epochs num_replicas num_steps num_wgt_servers num_workers_per_csx python_paths save_initial_checkpoint "
    "save_losses save_stream_size save_summary_steps seed service_dir show_debug_metrics "
    "skip_train_recv_activations steps_per_epoch sync_batchnorm target_device transfer_processes use_appliance_data "
    "use_cs_grad_accum use_cstorch_optimizer_step validate_only variant"
)
RUNCONFIG_2_2 = keys.words(
    "disable_strict_checkpoint_loading load_checkpoint_states max_checkpoints precision_opt_level summary_dir "
    "job_priority wsc_log_level ini debug_args drop_data dump_activations enable_act_frequency "
    "fabric_type_blacklist lazy_initialization log_input_summaries retrace_every_iteration op_profiler_config "
    "experimental act_memory_gi cmd_memory_gi wgt_memory_gi wrk_memory_gi compile_crd_memory_gi "
    "execute_crd_memory_gi"
)
READERS = keys.words(
    "data_processor data_dir mixture vocab_size max_sequence_length batch_size shuffle shuffle_seed shuffle_buffer "
    "num_workers drop_last prefetch_factor persistent_workers repeat use_multiple_workers use_vsl features_list "
    "cerebras use_worker_cache data_subset num_samples sort_files pad_last dataset_map_fn data_transforms "
    "micro_batch_size"
)
OPTIMIZER = keys.words(
    "optimizer_type learning_rate weight_decay weight_decay_rate betas beta1 beta2 eps correct_bias "
    "max_gradient_norm max_gradient_value grad_accum_steps loss_scaling_factor initial_loss_scale "
    "steps_per_increase min_loss_scale max_loss_scale log_summaries"
)


@pytest.mark.parametrize("era", ["1.8", "2.0", "2.10"])
def test_a_model_in_every_word_there_is_is_understood(era: Era) -> None:
    found = read_model(MODEL, era=era, device="cpu")

    assert (found.family.name, found.architecture.rotary_dim) == ("gptj", 8)
    assert found.training["precision"] == "bf16"


@pytest.mark.parametrize("key", ELSEWHERE)
def test_another_value_is_refused_by_the_key(key: str) -> None:
    with pytest.raises(RegraftError) as caught:
        read_model({**MODEL, key: ELSEWHERE[key]}, era="2.10", device="cpu")

    assert key in f"{caught.value.field} {caught.value}"
    assert caught.value.reason != "unknown_key"


@pytest.mark.parametrize(
    ("known", "tables"),
    [
        (RUNCONFIG_1_8 | RUNCONFIG_2_2, (keys.RUNCONFIG_USED, keys.RUNCONFIG_NO_EFFECT, keys.RUNCONFIG_REFUSED)),
        (READERS, (keys.READER_USED, keys.READER_NO_EFFECT, keys.READER_REFUSED)),
        (OPTIMIZER, (keys.OPTIMIZER_USED, keys.OPTIMIZER_NO_EFFECT, keys.OPTIMIZER_REFUSED)),
    ],
    ids=["runconfig", "readers", "optimizer"],
)
def test_every_key_of_the_sections_is_in_one_table(known: frozenset[str], tables: tuple[frozenset[str], ...]) -> None:
    assert {key: sum(key in table for table in tables) for key in known} == dict.fromkeys(known, 1)


def test_every_path_of_the_trainer_form_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here(tmp_path)
    content = yaml.safe_load(TRAINER.read_text())
    init = content["trainer"]["init"]
    scaling = {"loss_scaling_factor": "dynamic", "initial_loss_scale": 2.0**15, "steps_per_increase": 2000}
    scaling |= {"min_loss_scale": 2.0**-14, "max_loss_scale": 2.0**15, "max_gradient_norm": 1.0}
    cluster = {
        "num_csx": 1,
        "mgmt_address": "a:1",
        "mgmt_namespace": "n",
        "credentials_path": "c",
        "mount_dirs": ["/a"],
    }
    cluster |= {"python_paths": ["/b"], "num_workers_per_csx": 1, "cbcore_image": "i", "job_labels": ["a=b"]}
    cluster |= {"job_priority": "p2", "job_time_sec": 60, "disable_version_check": True, "max_wgt_servers": 2}
    init |= {
        "seed": 1,
        "model_dir": "out",
        "backend": {"backend_type": "CPU", "compile_dir": "c", "cluster_config": {**cluster, "max_act_per_csx": 1}},
        "precision": {"enabled": False, "precision_opt_level": 1, "log_loss_scale": True, **scaling},
        "loop": {"num_epochs": 1, "steps_per_epoch": 2, "eval_frequency": 2, "eval_steps": 1, "grad_accum_steps": 2},
        "checkpoint": {"steps": 2, "autoload_last_checkpoint": False, "save_initial_checkpoint": True},
        "logging": {"log_steps": 2, "log_level": "INFO", "wsc_log_level": "INFO"},
        "callbacks": [
            {"LoadCheckpointStates": {"load_checkpoint_states": "model"}},
            {"KeepNCheckpoints": {"n": 2}},
            {"CheckLoss": {}},
            {"ComputeNorm": {}},
        ],
    }
    init["checkpoint"] |= {"disable_strict_checkpoint_loading": True, "checkpoint_name": "checkpoint_{step}.mdl"}
    content["trainer"]["fit"]["ckpt_path"] = str(ASSETS / "release-1.8.0" / "pytorch_model_to_cs-1.8.mdl")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))

    found = read_params(tmp_path / "params.yaml", mode="train", device="cpu", given={})

    control = found.control
    assert (control.num_epochs, control.steps_per_epoch, control.checkpoint_steps, control.keep) == (1, 2, 2, 2)
    assert (control.autoload, control.strict, control.save_initial_checkpoint) == (False, False, True)
    assert (control.states, control.model_dir, control.checkpoint_path is not None) == ({"model"}, "out", True)
    assert found.training["batch_size"] == 8
