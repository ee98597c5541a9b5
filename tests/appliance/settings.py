"""What a run tells the cluster: from the params file, the command line, and the site's defaults, the last first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from appliance.errors import ApplianceError
from appliance.kinds import BadParamsError

_LISTS = ("job_labels", "mount_dirs", "python_paths")
_RENAMED = {"max_wgt_servers": "num_wgt_servers", "max_act_per_csx": "num_act_servers"}


@dataclass(frozen=True)
class ClusterSettings:
    """By the names of `runconfig`."""

    model_dir: Path = Path("model_dir")
    compile_dir: str = "cached_compile"
    compile_only: bool = False
    validate_only: bool = False
    num_csx: int = 1
    num_workers_per_csx: int = 1
    job_priority: str = "p2"
    job_time_sec: int | None = None
    job_labels: dict[str, str] = field(default_factory=dict)
    mount_dirs: tuple[str, ...] = ()
    python_paths: tuple[str, ...] = ()
    credentials_path: str | None = None
    mgmt_address: str | None = None
    mgmt_namespace: str | None = None
    disable_version_check: bool = False


def cluster_settings(content: Mapping[str, Any], given: Mapping[str, Any], *, model_dir: str | None) -> ClusterSettings:
    """The settings in force; lists of the command line are added to the file's."""
    found = {**_site_defaults(), **_of_file(content)}
    for key, value in given.items():
        found[key] = [*(found.get(key) or []), *value] if key in _LISTS else value
    known = {item.name for item in fields(ClusterSettings)}
    chosen = {key: value for key, value in found.items() if key in known and value is not None}
    chosen |= {key: tuple(chosen[key]) for key in ("mount_dirs", "python_paths") if key in chosen}
    chosen["job_labels"] = _labels(found.get("job_labels") or [])
    chosen["model_dir"] = Path(model_dir or chosen.get("model_dir", "model_dir"))
    return ClusterSettings(**chosen)


def check_places(content: Mapping[str, Any], settings: ClusterSettings) -> None:
    """The cluster reads the data, and must be able to.

    Raises:
        ApplianceError: a folder is not there, or is on nothing that is mounted.
    """
    if settings.mgmt_address is None and not Path(os.environ.get("CSCONFIG_PATH", "/opt/cerebras/config_v2")).exists():
        raise ApplianceError("ClusterConfigError", "there is no mgmt_address and no configuration of a cluster")
    if settings.credentials_path is not None and not Path(settings.credentials_path).is_file():
        raise ApplianceError("ClusterConfigError", f"credentials_path {settings.credentials_path} is not there")
    for place in (*settings.mount_dirs, *settings.python_paths):
        if not Path(place).is_dir():
            raise ApplianceError("MissingVolumeError", f"{place} is not there")
    for folder in data_dirs(content):
        if not any(Path(folder).resolve().is_relative_to(Path(place).resolve()) for place in settings.mount_dirs):
            raise ApplianceError("MissingVolumeError", f"data_dir {folder} is in none of the mount_dirs")


def data_dirs(content: Mapping[str, Any]) -> list[str]:
    """Every folder of data that a params file names."""
    found: list[str] = []
    if isinstance(content, dict):
        for key, value in content.items():
            found += ([value] if isinstance(value, str) else value) if key == "data_dir" else data_dirs(value)
    elif isinstance(content, list):
        found = [folder for item in content for folder in data_dirs(item)]
    return found


def _of_file(content: Mapping[str, Any]) -> dict[str, Any]:
    if "trainer" not in content:
        return dict(content["runconfig"])
    init = content["trainer"]["init"]
    backend = init.get("backend") or {}
    cluster = {_RENAMED.get(key, key): value for key, value in (backend.get("cluster_config") or {}).items()}
    return {**backend, **cluster, **({"model_dir": init["model_dir"]} if "model_dir" in init else {})}


def _site_defaults() -> dict[str, Any]:
    named = os.environ.get("CEREBRAS_WAFER_SCALE_CLUSTER_DEFAULTS")
    return dict(yaml.safe_load(Path(named).read_text())) if named else {}


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise BadParamsError(f"job_labels: {pair!r} is not of the form key=value")
    return dict(pair.split("=", 1) for pair in pairs)
