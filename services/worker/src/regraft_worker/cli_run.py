"""`regraft run`: the Model Zoo's `run.py` with its flags, for params files that are there already.

The flags keep their names, one or two dashes and defaults. Those that only a Cerebras system understands are known and
refused by name, so that a script meant for one does not silently train here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from regraft.errors import InvalidInputError

if TYPE_CHECKING:
    from regraft_worker.zoo.params import Mode

_MODES = ("train", "eval", "train_and_eval", "eval_all")
_CSX_PANEL = "Only for a Cerebras system, and refused here"


def _csx(*names: str) -> typer.models.OptionInfo:
    return cast(typer.models.OptionInfo, typer.Option(*names, hidden=True, rich_help_panel=_CSX_PANEL))


def run(
    device: Annotated[str, typer.Argument(help="CPU, GPU or CSX.")],
    *,
    params: Annotated[Path, typer.Option("--params", "-params", "-p", help="Model Zoo params file, YAML.")],
    mode: Annotated[str, typer.Option("--mode", "-mode", "-m", help="train, eval, train_and_eval or eval_all.")],
    model_dir: Annotated[
        Path | None,
        typer.Option("--model_dir", "-model_dir", "-o", help="Folder of the run. Default: the file's, else model_dir."),
    ] = None,
    checkpoint_path: Annotated[
        str | None,
        typer.Option("--checkpoint_path", "-checkpoint_path", help="Start from it, not the newest in model_dir."),
    ] = None,
    is_pretrained_checkpoint: Annotated[
        bool,
        typer.Option(
            "--is_pretrained_checkpoint", "-is_pretrained_checkpoint", help="Take the weights only, not strictly."
        ),
    ] = False,
    disable_strict_checkpoint_loading: Annotated[
        bool,
        typer.Option(
            "--disable_strict_checkpoint_loading",
            "-disable_strict_checkpoint_loading",
            help="Draw weights that the checkpoint lacks, drop those it has too many.",
        ),
    ] = False,
    load_checkpoint_states: Annotated[
        str | None,
        typer.Option(
            "--load_checkpoint_states", "-load_checkpoint_states", help="Comma-separated: model, or all. Default: all."
        ),
    ] = None,
    logging: Annotated[str | None, typer.Option("--logging", "-logging", help="Level; default: INFO.")] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max_steps", "-max_steps", help="Step to end at, counted over all runs.")
    ] = None,
    num_steps: Annotated[int | None, typer.Option("--num_steps", "-num_steps", help="Steps of this run.")] = None,
    num_epochs: Annotated[int | None, typer.Option("--num_epochs", "-num_epochs", help="Epochs of this run.")] = None,
    eval_steps: Annotated[int | None, typer.Option("--eval_steps", "-eval_steps", help="Batches to score.")] = None,
    dist_addr: Annotated[str | None, typer.Option("--dist_addr", "-dist_addr", hidden=True)] = None,
    dist_backend: Annotated[str | None, typer.Option("--dist_backend", "-dist_backend", hidden=True)] = None,
    init_method: Annotated[str | None, typer.Option("--init_method", "-init_method", hidden=True)] = None,
    compile_only: Annotated[bool, _csx("--compile_only", "-compile_only")] = False,
    validate_only: Annotated[bool, _csx("--validate_only", "-validate_only")] = False,
    compile_dir: Annotated[str | None, _csx("--compile_dir", "-compile_dir", "-c")] = None,
    num_csx: Annotated[str | None, _csx("--num_csx", "-num_csx")] = None,
    num_workers_per_csx: Annotated[str | None, _csx("--num_workers_per_csx", "-num_workers_per_csx")] = None,
    num_wgt_servers: Annotated[str | None, _csx("--num_wgt_servers", "-num_wgt_servers")] = None,
    num_act_servers: Annotated[str | None, _csx("--num_act_servers", "-num_act_servers")] = None,
    job_labels: Annotated[str | None, _csx("--job_labels", "-job_labels")] = None,
    job_priority: Annotated[str | None, _csx("--job_priority", "-job_priority")] = None,
    job_time_sec: Annotated[str | None, _csx("--job_time_sec", "-job_time_sec")] = None,
    mount_dirs: Annotated[str | None, _csx("--mount_dirs", "-mount_dirs")] = None,
    python_paths: Annotated[str | None, _csx("--python_paths", "-python_paths")] = None,
    credentials_path: Annotated[str | None, _csx("--credentials_path", "-credentials_path")] = None,
    mgmt_address: Annotated[str | None, _csx("--mgmt_address", "-mgmt_address")] = None,
    mgmt_namespace: Annotated[str | None, _csx("--mgmt_namespace", "-mgmt_namespace")] = None,
    cbcore_image: Annotated[str | None, _csx("--cbcore_image", "-cbcore_image")] = None,
    disable_version_check: Annotated[bool, _csx("--disable_version_check", "-disable_version_check")] = False,
    debug_args: Annotated[str | None, _csx("--debug_args", "-debug_args")] = None,
    debug_args_path: Annotated[str | None, _csx("--debug_args_path", "-debug_args_path")] = None,
    ini: Annotated[str | None, _csx("--ini", "-ini")] = None,
    wsc_log_level: Annotated[str | None, _csx("--wsc_log_level", "-wsc_log_level")] = None,
) -> None:
    """Train or score as a Model Zoo params file says, flat or in the trainer form."""
    arguments = dict(locals())
    kind = _device(device)
    for name in _CSX_ONLY:
        if arguments[name] not in (None, False):
            raise InvalidInputError(
                f"is for a Cerebras system and has no meaning on {kind.upper()}",
                field=f"--{name}",
                value=arguments[name],
                remedy="Leave the flag out.",
            )
    if kind == "cpu":
        _refuse_on_cpu(dist_addr=dist_addr, dist_backend=dist_backend, init_method=init_method)
    if mode not in _MODES:
        raise InvalidInputError("no such mode", field="--mode", value=mode, remedy=f"Use one of: {', '.join(_MODES)}.")
    from regraft_worker.zoo.run import run as run_core

    given = {name: arguments[name] for name in _GIVEN if arguments[name] not in (None, False)}
    run_core(device=kind, mode=cast("Mode", mode), params=params, model_dir=model_dir, given=given, level=logging)


_GIVEN = (
    "checkpoint_path",
    "is_pretrained_checkpoint",
    "disable_strict_checkpoint_loading",
    "load_checkpoint_states",
    "max_steps",
    "num_steps",
    "num_epochs",
    "eval_steps",
)
_CSX_ONLY = (
    "compile_only",
    "validate_only",
    "compile_dir",
    "num_csx",
    "num_workers_per_csx",
    "num_wgt_servers",
    "num_act_servers",
    "job_labels",
    "job_priority",
    "job_time_sec",
    "mount_dirs",
    "python_paths",
    "credentials_path",
    "mgmt_address",
    "mgmt_namespace",
    "cbcore_image",
    "disable_version_check",
    "debug_args",
    "debug_args_path",
    "ini",
    "wsc_log_level",
)


def _device(name: str) -> str:
    kind = name.lower()
    if kind == "csx":
        raise InvalidInputError(
            "this version has no target for Cerebras systems",
            field="device",
            value=name,
            remedy="Use CPU or GPU; `regraft params` writes a params file for the Model Zoo's own run.py.",
        )
    if kind not in ("cpu", "gpu"):
        raise InvalidInputError("no such device", field="device", value=name, remedy="Use CPU or GPU.")
    return kind


def _refuse_on_cpu(**given: str | None) -> None:
    for name, value in given.items():
        if value is not None:
            raise InvalidInputError("is for GPUs", field=f"--{name}", value=value, remedy="Leave the flag out.")
