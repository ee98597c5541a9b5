"""The keys of a Model Zoo params file, by section, and what becomes of each of them here.

A key is used, or is known to change nothing on a CPU or GPU and is named in a note, or would change the result in a way
that is not offered and is refused, or is unknown and is refused with the nearest name there is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Literal

from regraft.errors import InvalidInputError

Section = Mapping[str, object]
Era = Literal["1.8", "2.0", "2.10"]
"""Whose words a file is written in: releases 1.7 to 1.9, 2.0 to 2.2, or the trainer form."""


def words(text: str) -> frozenset[str]:
    """The words of a table below."""
    return frozenset(text.split())


READER_USED = words(
    "data_processor data_dir mixture batch_size shuffle shuffle_seed drop_last data_subset max_sequence_length"
)
READER_NO_EFFECT = words(
    "vocab_size num_workers prefetch_factor persistent_workers shuffle_buffer repeat use_multiple_workers cerebras "
    "use_worker_cache sort_files pad_last features_list use_vsl micro_batch_size"
)
READER_REFUSED = frozenset(("num_samples", "dataset_map_fn", "data_transforms"))
READER_KEYS = READER_USED | READER_NO_EFFECT | READER_REFUSED
CLUSTER_KEYS = words(
    "num_csx num_workers_per_csx max_wgt_servers max_act_per_csx job_labels job_priority job_time_sec mount_dirs "
    "python_paths credentials_path mgmt_address mgmt_namespace cbcore_image disable_version_check automount mount_all "
    "disable_mount_check notifications workflow_id"
)
OPTIMIZER_USED = words(
    "optimizer_type learning_rate weight_decay weight_decay_rate betas beta1 beta2 eps correct_bias max_gradient_norm "
    "max_gradient_value grad_accum_steps"
)
OPTIMIZER_NO_EFFECT = words(
    "loss_scaling_factor initial_loss_scale steps_per_increase min_loss_scale max_loss_scale log_summaries"
)
OPTIMIZER_REFUSED = frozenset(("amsgrad", "disable_lr_steps_reset"))
OPTIMIZER_KEYS = OPTIMIZER_USED | OPTIMIZER_NO_EFFECT | OPTIMIZER_REFUSED
RUNCONFIG_USED = words(
    "max_steps num_steps num_epochs steps_per_epoch log_steps checkpoint_steps save_initial_checkpoint seed eval_steps "
    "eval_frequency checkpoint_path autoload_last_checkpoint is_pretrained_checkpoint load_checkpoint_states "
    "disable_strict_checkpoint_loading keep_checkpoint_max max_checkpoints logging model_dir "
    "summary_dir"
)
RUNCONFIG_NO_EFFECT = words(
    "autogen_policy check_loss_values compile_dir credentials_path debug_args debug_args_path disable_version_check "
    "dist_addr dist_backend drop_data dump_activations enable_act_frequency enable_distributed enable_summaries "
    "execution_strategy experimental experimental_api fabric_type_blacklist ini init_method job_labels job_priority "
    "job_time_sec lazy_initialization log_input_summaries main_process_id mgmt_address mgmt_namespace mode mount_dirs "
    "multireplica num_act_servers num_csx num_replicas num_wgt_servers num_workers_per_csx op_profiler_config "
    "precision_opt_level python_paths retrace_every_iteration save_losses save_stream_size save_summary_steps "
    "service_dir show_debug_metrics skip_train_recv_activations sync_batchnorm target_device "
    "transfer_processes use_appliance_data use_cs_grad_accum use_cstorch_optimizer_step variant wsc_log_level "
    "cbcore_image cluster_config "
    "act_memory_gi cmd_memory_gi wgt_memory_gi wrk_memory_gi compile_crd_memory_gi execute_crd_memory_gi"
)
RUNCONFIG_REFUSED = frozenset(("compile_only", "validate_only"))
FLAT_SECTIONS = frozenset(("train_input", "eval_input", "model", "optimizer", "runconfig"))


def sort_keys(
    section: Section, where: str, *, used: Iterable[str], no_effect: Iterable[str] = (), refused: Iterable[str] = ()
) -> list[str]:
    """Those keys of `section` that are known and change nothing here.

    Raises:
        InvalidInputError: a key is unknown, or is refused and asks for something.
    """
    used, no_effect, refused = set(used), set(no_effect), set(refused)
    for key, value in section.items():
        if key in refused and value not in (None, False):
            raise InvalidInputError(
                "is not offered on CPU and GPU, and would change the run",
                field=f"{where}.{key}",
                value=value,
                remedy="Remove the key.",
            )
        if key not in used | no_effect | refused:
            raise unknown_key(key, where, used | no_effect | refused)
    return [f"{where}.{key}" for key in section if key in no_effect]


def unknown_key(key: object, where: str, known: Iterable[str]) -> InvalidInputError:
    """The refusal of a key nobody knows."""
    near = difflib.get_close_matches(str(key), sorted(known), n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}."
    return InvalidInputError(f"unknown key in {where}", field=f"{where}.{key}", remedy=remedy, reason="unknown_key")


def section_of(content: Section, key: str, where: str = "") -> dict[str, object]:
    """A section, empty when it is not there.

    Raises:
        InvalidInputError: it is no section.
    """
    found = content.get(key)
    name = f"{where}.{key}".lstrip(".")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInputError("must be a section of keys", field=name, value=found)
    return found


def whole(section: Section, key: str, where: str, *, least: int = 1) -> int | None:
    """A whole number, None when it is not given.

    Raises:
        InvalidInputError: it is none, or less than `least`.
    """
    found = section.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise InvalidInputError(f"must be a whole number of at least {least}", field=f"{where}.{key}", value=found)
    return found


def number(section: Section, key: str, where: str) -> float | None:
    """A number, None when it is not given; YAML reads `6e-6`, which has no dot, as text, and it is meant as a number.

    Raises:
        InvalidInputError: it is none.
    """
    found = section.get(key)
    if found is None:
        return None
    try:
        if not isinstance(found, bool) and isinstance(found, str | int | float):
            return float(found)
    except ValueError:
        pass
    raise InvalidInputError("must be a number", field=f"{where}.{key}", value=found)


def flag(section: Section, key: str, where: str, *, default: bool) -> bool:
    """True or false.

    Raises:
        InvalidInputError: it is neither.
    """
    found = section.get(key)
    if found is None:
        return default
    if not isinstance(found, bool):
        raise InvalidInputError("must be true or false", field=f"{where}.{key}", value=found)
    return found
