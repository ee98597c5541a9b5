"""The command line of the vendor's client: `run.py CSX` up to release 2.3, `cszoo fit` from 2.4 on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from regraft_worker.cerebras.rendering import numbers

Mode = Literal["train", "train_and_eval", "eval", "eval_all"]
Only = Literal["validate_only", "compile_only"]
_COMMANDS = {"train": "fit", "train_and_eval": "fit", "eval": "validate", "eval_all": "validate_all"}


def has_cszoo(release: str) -> bool:
    """True when the release is driven by `cszoo`."""
    return numbers(release) >= (2, 4)


def client_words(
    client: Sequence[str],
    *,
    release: str,
    mode: Mode,
    params: str,
    model_dir: str,
    only: Only | None = None,
    flags: Sequence[str] = (),
) -> list[str]:
    """The words to start; `client` is `cszoo`, or the interpreter and `run.py`, and `flags` are given as they are."""
    last = ["--model_dir", model_dir, *([f"--{only}"] if only else []), *flags]
    if has_cszoo(release):
        return [*client, _COMMANDS[mode], params, "--target_device", "CSX", *last]
    device = ["CSX", "weight_streaming"] if numbers(release) < (1, 9) else ["CSX"]
    return [*client, *device, "--params", params, "--mode", mode, *last]
