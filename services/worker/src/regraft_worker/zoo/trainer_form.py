"""The trainer form of releases 2.3 and later in the words of the flat one, which the rest of this package reads.

Every key of the trainer form that is known has its flat origin; a key that has none is refused by its full path. The
trade-off: errors about values name the flat key, as `runconfig.max_steps` for `trainer.init.loop.max_steps`.
"""

from __future__ import annotations

from typing import Any

from regraft.errors import InvalidInputError
from regraft_worker.zoo.keys import (
    CLUSTER_KEYS,
    READER_KEYS,
    Section,
    section_of,
    sort_keys,
    unknown_key,
    words,
)

_INIT = words("seed model_dir backend model optimizer schedulers precision loop checkpoint logging callbacks loggers")
_LOOP = words("num_steps max_steps num_epochs steps_per_epoch eval_frequency eval_steps grad_accum_steps")
_CHECKPOINT = frozenset(("steps", "autoload_last_checkpoint", "disable_strict_checkpoint_loading"))
_CHECKPOINT |= {"save_initial_checkpoint"}
_CHECKPOINT_IGNORED = frozenset(("checkpoint_root", "checkpoint_name", "strict_version", "to_device"))
_BACKEND = frozenset(("backend_type", "cluster_config", "compile_dir", "compile_only", "validate_only"))
_BACKEND |= {"drop_data", "max_checkpoints", "retrace_every_iteration", "use_cs_grad_accum", "main_process_id"}
_SCALING = words(
    "loss_scaling_factor initial_loss_scale steps_per_increase min_loss_scale max_loss_scale max_gradient_norm "
    "max_gradient_value"
)
_PRECISION = _SCALING | {"enabled", "fp16_type", "precision_opt_level", "log_loss_scale"}
_QUIET_CALLBACKS = dict.fromkeys(
    words("CheckLoss ComputeNorm ModelEvalMetrics RateProfiler SavePerformanceData TimeRemaining"), words("")
)
_QUIET_CALLBACKS |= {
    "LogOptimizerParamGroup": words("keys"),
    "DebugArgsPath": words("debug_args_path"),
    "DumpActivations": words("outdir buffer_steps"),
    "ModelZooParamsMetadata": words("params"),
}
_FLAGS = words("ScopedTrainFlags ScopedValidateFlags GlobalFlags")  # their options are paths of flags, without end
_LOGGERS = {
    "TensorBoardLogger": words("summary_dir legacy_event_dirs"),
    "ProgressLogger": words(""),
    "WandbLogger": words("project group run_id run_name job_type tags resume"),
}
_BLOCKS = {
    "fit": frozenset(("train_dataloader", "val_dataloader", "ckpt_path")),
    "validate": frozenset(("val_dataloader", "ckpt_path")),
    "validate_all": frozenset(("val_dataloaders", "ckpt_paths")),
}
_INPUTS = words("train_dataloader val_dataloader val_dataloaders")
_BLOCK_OF_MODE = {"train": "fit", "train_and_eval": "fit", "eval": "validate", "eval_all": "validate_all"}


def flattened(trainer: object, *, mode: str) -> tuple[dict[str, Any], list[str]]:
    """The flat sections of a `trainer:` section for a mode, and the keys that have no effect.

    Raises:
        InvalidInputError: a key is not known, or the section is not of this form.
    """
    if not isinstance(trainer, dict):
        raise InvalidInputError("must be a section of keys", field="trainer", value=type(trainer).__name__)
    sort_keys(trainer, "trainer", used=("init", *_BLOCKS))
    init = section_of(trainer, "init", "trainer")
    sort_keys(init, "trainer.init", used=_INIT)
    quiet: list[str] = []
    runconfig: dict[str, object] = {key: init[key] for key in ("seed", "model_dir") if key in init}
    runconfig |= _run(init, quiet) | _callbacks(init, quiet)
    blocks = _blocks(trainer)
    block = blocks.get(_BLOCK_OF_MODE[mode], {})
    if block.get("ckpt_path") is not None:
        runconfig["checkpoint_path"] = block["ckpt_path"]
    model = {**section_of(init, "model", "trainer.init"), **_mixed(init)}
    flat: dict[str, Any] = {"model": model, "optimizer": _optimizer(init, quiet), "runconfig": runconfig}
    flat |= {key: value for key, value in _inputs(blocks, block).items() if value is not None}
    return flat, quiet


def _run(init: Section, quiet: list[str]) -> dict[str, object]:
    loop = section_of(init, "loop", "trainer.init")
    checkpoint = section_of(init, "checkpoint", "trainer.init")
    logging = section_of(init, "logging", "trainer.init")
    backend = section_of(init, "backend", "trainer.init")
    sort_keys(loop, "trainer.init.loop", used=_LOOP)
    quiet += sort_keys(checkpoint, "trainer.init.checkpoint", used=_CHECKPOINT, no_effect=_CHECKPOINT_IGNORED)
    quiet += sort_keys(
        logging,
        "trainer.init.logging",
        used=("log_steps", "log_level"),
        no_effect=("wsc_log_level", "enable_act_frequency"),
    )
    quiet += sort_keys(backend, "trainer.init.backend", used=("compile_only", "validate_only"), no_effect=_BACKEND)
    cluster = section_of(backend, "cluster_config", "trainer.init.backend")
    sort_keys(cluster, "trainer.init.backend.cluster_config", used=CLUSTER_KEYS)
    renamed = {"steps": "checkpoint_steps"}
    found = {key: value for key, value in loop.items() if key != "grad_accum_steps"}
    found |= {renamed.get(key, key): value for key, value in checkpoint.items() if key in _CHECKPOINT}
    found |= {key: backend[key] for key in ("compile_only", "validate_only") if key in backend}
    found |= {
        name: logging[key] for key, name in (("log_steps", "log_steps"), ("log_level", "logging")) if key in logging
    }
    return found


def _callbacks(init: Section, quiet: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, options in _named(init.get("callbacks"), "trainer.init.callbacks"):
        where = f"trainer.init.callbacks.{name}"
        if name == "KeepNCheckpoints":
            sort_keys(options, where, used=("n",))
            found["max_checkpoints"] = options.get("n")
        elif name == "LoadCheckpointStates":
            sort_keys(options, where, used=("load_checkpoint_states",))
            found["load_checkpoint_states"] = options.get("load_checkpoint_states")
        elif name in _QUIET_CALLBACKS:
            sort_keys(options, where, used=_QUIET_CALLBACKS[name])
            quiet.append(where)
        elif name in _FLAGS:
            quiet.append(where)
        else:
            known = {"KeepNCheckpoints", "LoadCheckpointStates", *_QUIET_CALLBACKS, *_FLAGS}
            raise unknown_key(name, "trainer.init.callbacks", known)
    return found | _loggers(init, quiet)


def _loggers(init: Section, quiet: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, options in _named(init.get("loggers"), "trainer.init.loggers"):
        if name not in _LOGGERS:
            raise unknown_key(name, "trainer.init.loggers", _LOGGERS)
        where = f"trainer.init.loggers.{name}"
        sort_keys(options, where, used=_LOGGERS[name])
        if name != "TensorBoardLogger":
            quiet.append(where)
            continue
        if options.get("summary_dir") is not None:
            found["summary_dir"] = options["summary_dir"]
        if options.get("legacy_event_dirs"):  # `train/` and `eval/` in the model folder, whatever the summary_dir
            quiet.append(f"{where}.legacy_event_dirs")
    return found


def _optimizer(init: Section, quiet: list[str]) -> dict[str, object]:
    named = _named(init.get("optimizer"), "trainer.init.optimizer")
    found: dict[str, object] = {}
    for name, options in named:
        found = {"optimizer_type": name, **options}
    if len(named) > 1:
        raise InvalidInputError("name one optimizer", field="trainer.init.optimizer", value=[name for name, _ in named])
    precision = section_of(init, "precision", "trainer.init")
    sort_keys(precision, "trainer.init.precision", used=_PRECISION)
    quiet += [f"trainer.init.precision.{key}" for key in ("precision_opt_level", "log_loss_scale") if key in precision]
    found |= {key: precision[key] for key in _SCALING if key in precision}
    loop = section_of(init, "loop", "trainer.init")
    if loop.get("grad_accum_steps") is not None:
        found["grad_accum_steps"] = loop["grad_accum_steps"]
    schedulers = _named(init.get("schedulers", init.get("scheduler")), "trainer.init.schedulers")
    if len(schedulers) > 1:
        raise InvalidInputError(
            "has several schedules, each for some of the parameters, which is not offered",
            field="trainer.init.schedulers",
            value=[name for name, _ in schedulers],
            remedy="Put their parts into one SequentialLR.",
        )
    if schedulers:
        name, options = schedulers[0]
        found["learning_rate"] = {"scheduler": name, **options}
    return found


def _mixed(init: Section) -> dict[str, object]:
    precision = section_of(init, "precision", "trainer.init")
    enabled = bool(precision.get("enabled", False))
    return {"mixed_precision": enabled, **({"fp16_type": precision["fp16_type"]} if "fp16_type" in precision else {})}


def _blocks(trainer: Section) -> dict[str, dict[str, Any]]:
    found = {name: section_of(trainer, name, "trainer") for name in _BLOCKS}
    for name, block in found.items():
        sort_keys(block, f"trainer.{name}", used=_BLOCKS[name])
        for key in block.keys() & _INPUTS:
            for part in block[key] if isinstance(block[key], list) else [block[key]]:
                if isinstance(part, dict):
                    sort_keys(part, f"trainer.{name}.{key}", used=READER_KEYS)
    if found["validate_all"].get("ckpt_paths") is not None:
        raise InvalidInputError(
            "is not offered; every checkpoint in the model_dir is scored",
            field="trainer.validate_all.ckpt_paths",
            value=found["validate_all"]["ckpt_paths"],
            remedy="Remove it, or score one with --mode eval --checkpoint_path.",
        )
    return found


def _inputs(blocks: dict[str, dict[str, Any]], block: Section) -> dict[str, object]:
    scored = block.get("val_dataloaders", block.get("val_dataloader"))
    return {"train_input": blocks["fit"].get("train_dataloader"), "eval_input": scored}


def _named(found: object, where: str) -> list[tuple[str, dict[str, Any]]]:
    """`{Name: options}`, or a list of such, as pairs."""
    pairs: list[tuple[str, dict[str, Any]]] = []
    for item in found if isinstance(found, list) else [] if found is None else [found]:
        if not isinstance(item, dict) or not all(isinstance(options, dict | None) for options in item.values()):
            raise InvalidInputError("must be `Name: {options}`", field=where, value=item)
        pairs += [(str(name), options or {}) for name, options in item.items()]
    return pairs
