"""Command lines of `run.py CSX` and `cszoo fit`, with the flags that each release has and no others."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Release = tuple[int, int]
_LISTS = ("job_labels", "mount_dirs", "python_paths")
_STATE_LIST = "model, optimizer, lr_scheduler, grad_scaler, dataloader, sparsity, global_step"


@dataclass(frozen=True)
class Given:
    """What the command line says."""

    params: Path
    mode: str
    model_dir: str | None
    values: dict[str, Any] = field(default_factory=dict)
    """By the names of `runconfig`, without those not given."""


def run_py(words: list[str], release: Release) -> Given:
    """Read the command line of `run.py`; argparse ends the program with status 2 when it cannot be read."""
    parser = argparse.ArgumentParser(prog="run.py", allow_abbrev=False)
    parser.add_argument("device", choices=("CSX",))
    if release < (1, 9):
        parser.add_argument("execution", choices=("pipeline", "weight_streaming"))
    parser.add_argument("-p", "-params", "--params", required=True)
    modes = ("train", "eval", "train_and_eval", "eval_all")
    parser.add_argument("-m", "-mode", "--mode", required=True, choices=modes)
    _common(parser, release)
    for name in ("max_steps", "eval_steps", "num_steps", "num_epochs", "job_time_sec"):
        parser.add_argument(f"-{name}", f"--{name}", type=int)
    for name in ("num_workers_per_csx", "num_wgt_servers", "num_act_servers"):
        parser.add_argument(f"-{name}", f"--{name}", type=int)
    parser.add_argument("-c", "-compile_dir", "--compile_dir")
    parser.add_argument("-cbcore_image", "--cbcore_image")
    parser.add_argument("-wsc_log_level", "--wsc_log_level", nargs="+")
    if release < (2, 0):
        parser.add_argument("-is_pretrained_checkpoint", "--is_pretrained_checkpoint", action="store_true")
    else:
        _since_2_0(parser)
    return _given(parser.parse_args(words))


def cszoo(words: list[str], release: Release) -> Given:
    """Read the command line of `cszoo`."""
    parser = argparse.ArgumentParser(prog="cszoo", allow_abbrev=False)
    parser.add_argument("mode", choices=("fit", "validate", "validate_all"))
    parser.add_argument("params")
    parser.add_argument("--target_device", choices=("CSX", "CPU", "GPU"))
    _common(parser, release)
    _since_2_0(parser)
    return _given(parser.parse_args(words))


def _common(parser: argparse.ArgumentParser, release: Release) -> None:
    parser.add_argument("-o", "-model_dir", "--model_dir")
    for name in ("checkpoint_path", "logging", "credentials_path", "mgmt_address", "mgmt_namespace"):
        parser.add_argument(f"-{name}", f"--{name}")
    for name in ("debug_args", "debug_args_path", "ini"):
        parser.add_argument(f"-{name}", f"--{name}")
    parser.add_argument("-num_csx", "--num_csx", type=int)
    parser.add_argument("-job_priority", "--job_priority", choices=("p1", "p2", "p3"))
    parser.add_argument("-disable_version_check", "--disable_version_check", action="store_true")
    only = parser.add_mutually_exclusive_group()
    for name in ("compile_only", "validate_only"):
        only.add_argument(f"-{name}", f"--{name}", action="store_true")
    for name in _LISTS:
        parser.add_argument(f"-{name}", f"--{name}", nargs="+")


def _since_2_0(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-load_checkpoint_states", "--load_checkpoint_states", help=_STATE_LIST)
    strictly = ("-disable_strict_checkpoint_loading", "--disable_strict_checkpoint_loading")
    parser.add_argument(*strictly, action="store_true")


def _given(found: argparse.Namespace) -> Given:
    values = {key: value for key, value in vars(found).items() if value not in (None, False)}
    for name in ("device", "execution", "target_device"):
        values.pop(name, None)
    params, mode = Path(values.pop("params")), str(values.pop("mode"))
    return Given(params, mode, values.pop("model_dir", None), values)
