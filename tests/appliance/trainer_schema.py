"""The trainer form of releases 2.3 and later: which keys it may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.kinds import BadParamsError, check_part, check_section, check_sizes, check_steps

_CLUSTER = {
    "num_csx": "int",
    "num_workers_per_csx": "int",
    "max_wgt_servers": "int",
    "max_act_per_csx": "int",
    "job_time_sec": "int",
    "job_priority": "str",
    "job_labels": "str*",
    "mount_dirs": "str*",
    "python_paths": "str*",
    "credentials_path": "str",
    "mgmt_address": "str",
    "mgmt_namespace": "str",
    "cbcore_image": "str",
    "disable_version_check": "bool",
    "automount": "bool",
    "mount_all": "bool",
    "disable_mount_check": "bool",
    "notifications": "any",
}
_BACKEND = {
    "backend_type": "str",
    "compile_dir": "str",
    "compile_only": "bool",
    "validate_only": "bool",
    "drop_data": "bool",
    "max_checkpoints": "int",
    "retrace_every_iteration": "bool",
    "use_cs_grad_accum": "bool",
    "main_process_id": "int",
    "cluster_config": "any",
}
_PRECISION = {
    "enabled": "bool",
    "fp16_type": "str",
    "precision_opt_level": "int",
    "loss_scaling_factor": "any",
    "initial_loss_scale": "float",
    "steps_per_increase": "int",
    "min_loss_scale": "float",
    "max_loss_scale": "float",
    "max_gradient_norm": "float",
    "max_gradient_value": "float",
    "log_loss_scale": "bool",
}
_LOOP = ("max_steps", "num_steps", "num_epochs", "steps_per_epoch", "eval_frequency", "eval_steps", "grad_accum_steps")
_CHECKPOINT = {
    "steps": "int",
    "autoload_last_checkpoint": "bool",
    "disable_strict_checkpoint_loading": "bool",
    "save_initial_checkpoint": "bool",
    "checkpoint_root": "str",
    "checkpoint_name": "str",
    "strict_version": "bool",
}
_ADAMW = {
    "betas": "float*",
    "beta1": "float",
    "beta2": "float",
    "eps": "float",
    "weight_decay": "float",
    "correct_bias": "bool",
    "amsgrad": "bool",
}
_LOGGING = {"log_steps": "int", "log_level": "str", "wsc_log_level": "any", "enable_act_frequency": "bool"}
_CALLBACKS = {
    "KeepNCheckpoints": {"n": "int"},
    "LoadCheckpointStates": {"load_checkpoint_states": "any"},
    "CheckLoss": {},
    "ComputeNorm": {},
}
_LOGGERS = ("TensorBoardLogger", "ProgressLogger")
_BLOCKS = {
    "fit": {"train_dataloader": "any", "val_dataloader": "any", "ckpt_path": "str"},
    "validate": {"val_dataloader": "any", "ckpt_path": "str"},
    "validate_all": {"val_dataloaders": "any", "ckpt_paths": "str*"},
}
_INIT = ("seed", "model_dir", "backend", "model", "optimizer", "schedulers", "precision", "loop", "checkpoint")
_INIT += ("logging", "callbacks", "loggers", "device")


def check_trainer(
    content: Any, release: tuple[int, int], *, model: Mapping[str, str], reader: Mapping[str, str]
) -> None:
    """Refuse what the trainer of the release would refuse.

    Raises:
        BadParamsError: naming the key.
    """
    check_section(content, {"trainer": "any"}, "the params file")
    trainer = content.get("trainer")
    check_section(trainer, {"init": "any", **dict.fromkeys(_BLOCKS, "any")}, "trainer")
    init = trainer.get("init")
    check_section(init, dict.fromkeys(_INIT, "any") | {"seed": "int", "model_dir": "str"}, "trainer.init")
    backend = init.get("backend") or {}
    parts = {"model": model, "backend": _BACKEND, "precision": _PRECISION, "loop": dict.fromkeys(_LOOP, "int")}
    for name, kinds in {**parts, "checkpoint": _CHECKPOINT, "logging": _LOGGING}.items():
        check_section(init.get(name) or {}, kinds, f"trainer.init.{name}")
    check_section(backend.get("cluster_config") or {}, _CLUSTER, "trainer.init.backend.cluster_config")
    if release >= (2, 4) and "name" not in init["model"]:
        raise BadParamsError("trainer.init.model.name is required")
    check_sizes(init["model"], "trainer.init.model")
    check_steps(init.get("loop") or {}, "trainer.init.loop", (init.get("checkpoint") or {}).get("steps"))
    _check_named(init)
    _check_blocks(trainer, reader)


def _check_named(init: Mapping[str, Any]) -> None:
    check_section(init.get("optimizer"), {"adamw": "any", "AdamW": "any"}, "trainer.init.optimizer")
    for name, options in init["optimizer"].items():
        check_section(options, _ADAMW, f"trainer.init.optimizer.{name}")
    for name, options in _pairs(init.get("callbacks"), "callbacks"):
        if name not in _CALLBACKS:
            raise BadParamsError(f"trainer.init.callbacks: no callback {name!r}")
        check_section(options or {}, _CALLBACKS[name], f"trainer.init.callbacks.{name}")
    for name, _ in _pairs(init.get("loggers"), "loggers"):
        if name not in _LOGGERS:
            raise BadParamsError(f"trainer.init.loggers: no logger {name!r}")
    for name, options in _pairs(init.get("schedulers"), "schedulers"):
        where = "trainer.init.schedulers"
        if name != "SequentialLR":
            check_part(name, options, "total_iters", where)
            continue
        check_section(options, {"schedulers": "any", "milestones": "any"}, f"{where}.{name}")
        for inner, values in _pairs(options.get("schedulers"), "schedulers"):
            check_part(inner, values, "total_iters", f"{where}.{name}")


def _check_blocks(trainer: Mapping[str, Any], reader: Mapping[str, str]) -> None:
    for name, kinds in _BLOCKS.items():
        block = trainer.get(name) or {}
        check_section(block, kinds, f"trainer.{name}")
        for key, found in block.items():
            if "dataloader" in key:
                for part in found if isinstance(found, list) else [found]:
                    check_section(part, reader, f"trainer.{name}.{key}")


def _pairs(found: Any, where: str) -> list[tuple[str, Any]]:
    if found is not None and not isinstance(found, list):
        raise BadParamsError(f"trainer.init.{where} is no list")
    return [pair for item in found or [] for pair in item.items()]
