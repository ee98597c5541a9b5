"""What the command line says, in the words of the client's own: flags of `run.py`, or keys of a copy for `cszoo`.

`cszoo` has fewer flags than `run.py` had; what it has none for is written into a copy of the params file, which stays
in the model folder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from regraft_worker.cerebras.command import has_cszoo
from regraft_worker.cerebras.given import Asked

COPY = "params_csx.yaml"
_SITE_FLAGS = ("mount_dirs", "python_paths", "credentials_path", "mgmt_address", "mgmt_namespace")
# Where in `trainer.init` a flag of `run.py` without one of `cszoo` belongs.
_PLACES: Mapping[str, tuple[str, ...]] = {
    **{name: ("loop", name) for name in ("max_steps", "num_steps", "num_epochs", "eval_steps")},
    "compile_dir": ("backend", "compile_dir"),
    "num_workers_per_csx": ("backend", "cluster_config", "num_workers_per_csx"),
    "num_wgt_servers": ("backend", "cluster_config", "max_wgt_servers"),
    "num_act_servers": ("backend", "cluster_config", "max_act_per_csx"),
    "job_time_sec": ("backend", "cluster_config", "job_time_sec"),
    "cbcore_image": ("backend", "cluster_config", "cbcore_image"),
    "wsc_log_level": ("logging", "wsc_log_level"),
}


def flags_for(asked: Asked, given: Mapping[str, Any]) -> list[str]:
    """The words that follow the params file."""
    told = {**given, **{name: asked.of_site[name] for name in _SITE_FLAGS if name in asked.of_site}}
    if has_cszoo(asked.release):
        told = {name: value for name, value in told.items() if name not in _PLACES}
    elif "compile_dir" in asked.of_site:
        told["compile_dir"] = asked.of_site["compile_dir"]
    return [word for name, value in told.items() for word in _words(name, value)]


def params_for(asked: Asked, given: Mapping[str, Any], *, path: Path, mode: str) -> Path:
    """The params file to run: the user's, or for `cszoo` a copy in the model folder."""
    if not has_cszoo(asked.release):
        return path
    content = copy.deepcopy(asked.content)
    init = content["trainer"].setdefault("init", {})
    told = {**given, **({"compile_dir": asked.of_site["compile_dir"]} if "compile_dir" in asked.of_site else {})}
    for name in (name for name in told if name in _PLACES):
        *sections, key = _PLACES[name]
        section = init
        for inner in sections:
            section[inner] = section = dict(section.get(inner) or {})
        section[key] = told[name]
    if mode == "train":  # `fit` evaluates whenever it has something to
        content["trainer"].get("fit", {}).pop("val_dataloader", None)
    asked.model_dir.mkdir(parents=True, exist_ok=True)
    made = asked.model_dir / COPY
    made.write_text(yaml.safe_dump(content, indent=4, sort_keys=False), encoding="utf-8")
    return made


def _words(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [f"--{name}", *map(str, values)]
