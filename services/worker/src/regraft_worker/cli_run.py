"""`regraft run`: the Model Zoo's `run.py` with its flags, for params files that are there already.

The flags keep their names, one or two dashes and defaults. On CSX the vendor's own client is driven; on CPU and GPU the
flags that only a Cerebras system understands are refused by name, so that a script meant for one does not silently
train here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from regraft.errors import InvalidInputError

if TYPE_CHECKING:
    from regraft_worker.zoo.params import Mode

_MODES = ("train", "eval", "train_and_eval", "eval_all")
_CSX_PANEL = "CSX only"
_SEVERAL = ("job_labels", "mount_dirs", "python_paths", "wsc_log_level")


def _csx(*names: str, **more: Any) -> typer.models.OptionInfo:
    return cast(typer.models.OptionInfo, typer.Option(*names, rich_help_panel=_CSX_PANEL, **more))


class SeveralValues(TyperCommand):
    """Some flags take every word up to the next flag, as argparse has it: `--mount_dirs /data /venv`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such a flag before each of its words, which is how this library has it."""
        found: list[str] = []
        flag = ""
        for word in args:
            if word.startswith("-"):
                flag = word if word.lstrip("-") in _SEVERAL else ""
                found.append(word)
            elif flag and found[-1] != flag:
                found += [flag, word]
            else:
                found.append(word)
        return super().parse_args(ctx, found)


def run(
    device: Annotated[str, typer.Argument(help="CPU, GPU or CSX.")],
    execution: Annotated[str | None, typer.Argument(hidden=True)] = None,
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
    checkpoint_format: Annotated[
        str | None,
        typer.Option(
            "--checkpoint_format",
            "-checkpoint_format",
            help="torch (for releases 2.3 to 2.5), or hdf5. Default: as the form of the file. CPU and GPU only.",
        ),
    ] = None,
    dist_addr: Annotated[str | None, typer.Option("--dist_addr", "-dist_addr", hidden=True)] = None,
    dist_backend: Annotated[str | None, typer.Option("--dist_backend", "-dist_backend", hidden=True)] = None,
    init_method: Annotated[str | None, typer.Option("--init_method", "-init_method", hidden=True)] = None,
    compile_only: Annotated[bool, _csx("--compile_only", "-compile_only", help="Compile, and do not run.")] = False,
    validate_only: Annotated[
        bool, _csx("--validate_only", "-validate_only", help="Check that it can be compiled.")
    ] = False,
    compile_dir: Annotated[
        str | None, _csx("--compile_dir", "-compile_dir", "-c", help="Folder of compiled programs, on the cluster.")
    ] = None,
    num_csx: Annotated[int | None, _csx("--num_csx", "-num_csx", help="CS systems. Default: 1.")] = None,
    num_workers_per_csx: Annotated[
        int | None, _csx("--num_workers_per_csx", "-num_workers_per_csx", help="Input workers for each system.")
    ] = None,
    num_wgt_servers: Annotated[int | None, _csx("--num_wgt_servers", "-num_wgt_servers", help="Weight hosts.")] = None,
    num_act_servers: Annotated[
        int | None, _csx("--num_act_servers", "-num_act_servers", help="Activation hosts for each system.")
    ] = None,
    job_labels: Annotated[
        list[str] | None, _csx("--job_labels", "-job_labels", help="Labels of the jobs, as team=news.")
    ] = None,
    job_priority: Annotated[
        str | None, _csx("--job_priority", "-job_priority", help="p1, p2 or p3. Default: p2.")
    ] = None,
    job_time_sec: Annotated[int | None, _csx("--job_time_sec", "-job_time_sec", help="Time limit of the jobs.")] = None,
    mount_dirs: Annotated[
        list[str] | None, _csx("--mount_dirs", "-mount_dirs", help="Folders that the cluster mounts.")
    ] = None,
    python_paths: Annotated[
        list[str] | None, _csx("--python_paths", "-python_paths", help="Folders to import from.")
    ] = None,
    credentials_path: Annotated[
        str | None, _csx("--credentials_path", "-credentials_path", help="TLS certificate.")
    ] = None,
    mgmt_address: Annotated[
        str | None, _csx("--mgmt_address", "-mgmt_address", help="Management node, as host:port.")
    ] = None,
    mgmt_namespace: Annotated[
        str | None, _csx("--mgmt_namespace", "-mgmt_namespace", help="Namespace of the jobs.")
    ] = None,
    cbcore_image: Annotated[str | None, _csx("--cbcore_image", "-cbcore_image", hidden=True)] = None,
    disable_version_check: Annotated[
        bool, _csx("--disable_version_check", "-disable_version_check", hidden=True)
    ] = False,
    debug_args: Annotated[str | None, _csx("--debug_args", "-debug_args", hidden=True)] = None,
    debug_args_path: Annotated[str | None, _csx("--debug_args_path", "-debug_args_path", hidden=True)] = None,
    ini: Annotated[str | None, _csx("--ini", "-ini", hidden=True)] = None,
    wsc_log_level: Annotated[
        list[str] | None, _csx("--wsc_log_level", "-wsc_log_level", help="Level of the cluster, or task=level.")
    ] = None,
) -> None:
    """Train or score as a Model Zoo params file says, flat or in the trainer form."""
    arguments = dict(locals())
    kind = _device(device)
    if mode not in _MODES:
        raise InvalidInputError("no such mode", field="--mode", value=mode, remedy=f"Use one of: {', '.join(_MODES)}.")
    if execution is not None and (kind, execution) != ("csx", "weight_streaming"):
        raise InvalidInputError("is no word of this command", field="device", value=f"{device} {execution}")
    if kind == "csx":
        _run_csx(arguments)
        return
    for name in _CSX_ONLY:
        if _given(arguments, (name,)):
            raise InvalidInputError(
                f"is for a Cerebras system and has no meaning on {kind.upper()}",
                field=f"--{name}",
                value=arguments[name],
                remedy="Leave the flag out.",
            )
    if kind == "cpu":
        _refuse_gpu_flags(arguments)
    from regraft_worker.zoo.run import run as run_core

    run_core(
        device=kind,
        mode=cast("Mode", mode),
        params=params,
        model_dir=model_dir,
        given=_given(arguments, _GIVEN),
        level=logging,
        checkpoint_format=checkpoint_format,
    )


def _run_csx(arguments: Mapping[str, Any]) -> None:
    _refuse_gpu_flags(arguments)
    if arguments["checkpoint_format"] is not None:
        raise InvalidInputError(
            "is the client's to choose on CSX",
            field="--checkpoint_format",
            value=arguments["checkpoint_format"],
            remedy="Leave the flag out.",
        )
    if arguments["compile_only"] and arguments["validate_only"]:
        raise InvalidInputError("excludes --compile_only", field="--validate_only", value=True)
    from regraft_worker.cerebras.run import run_csx

    names = (*_GIVEN, *_CSX_ONLY, "logging")
    given = _given(arguments, names)
    mode, params, model_dir = (arguments[name] for name in ("mode", "params", "model_dir"))
    status = run_csx(mode=mode, params=params, model_dir=model_dir, given=given)
    if status:
        raise typer.Exit(status)


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


def _given(arguments: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of the flags that were given; 0 is a value."""
    found = {name: arguments[name] for name in names}
    return {name: value for name, value in found.items() if value is not None and value is not False}


def _device(name: str) -> str:
    kind = name.lower()
    if kind not in ("cpu", "gpu", "csx"):
        raise InvalidInputError("no such device", field="device", value=name, remedy="Use CPU, GPU or CSX.")
    return kind


def _refuse_gpu_flags(arguments: Mapping[str, Any]) -> None:
    for name in ("dist_addr", "dist_backend", "init_method"):
        if arguments[name] is not None:
            raise InvalidInputError(
                "is for GPUs", field=f"--{name}", value=arguments[name], remedy="Leave the flag out."
            )


run.command_class = SeveralValues  # type: ignore[attr-defined]
