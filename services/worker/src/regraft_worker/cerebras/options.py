"""What a run tells the cluster, and the keys for it: `runconfig` of a flat file, `backend` of the trainer form.

A key is written where it is known that the release has it. What a release has only a flag for comes back as words for
the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from regraft.cerebrassite import CerebrasSite
from regraft.errors import InvalidInputError
from regraft.formats import Release
from regraft.specs import CerebrasTargetSpec

Section = dict[str, object]
_PRIORITY_KEY_SINCE = (2, 2)
# Field here, key of `runconfig`, key of `cluster_config`.
_KEYS = (
    ("num_csx", "num_csx", "num_csx"),
    ("workers", "num_workers_per_csx", "num_workers_per_csx"),
    ("weight_servers", "num_wgt_servers", "max_wgt_servers"),
    ("activation_servers", "num_act_servers", "max_act_per_csx"),
    ("priority", "job_priority", "job_priority"),
    ("time_limit_seconds", "job_time_sec", "job_time_sec"),
    ("job_labels", "job_labels", "job_labels"),
    ("mount_dirs", "mount_dirs", "mount_dirs"),
    ("python_paths", "python_paths", "python_paths"),
    ("credentials_path", "credentials_path", "credentials_path"),
    ("mgmt_address", "mgmt_address", "mgmt_address"),
    ("mgmt_namespace", "mgmt_namespace", "mgmt_namespace"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Null, empty: not said, so the cluster or the client decides."""

    mgmt_address: str
    """Management node as host:port."""
    mgmt_namespace: str
    """Namespace of the cluster's jobs."""
    credentials_path: str = ""
    """TLS certificate of the management node."""
    mount_dirs: tuple[str, ...] = ()
    """Folders that the cluster's workers see at the same path."""
    python_paths: tuple[str, ...] = ()
    """Folders that the cluster's workers import from."""
    compile_dir: str = ""
    """Folder of compiled programs, below the cluster's root."""
    num_csx: int = 1
    """CS systems."""
    workers: int | None = None
    """Input workers for each system."""
    weight_servers: int | None = None
    """Weight hosts."""
    activation_servers: int | None = None
    """Activation hosts for each system."""
    priority: str = "p2"
    """In the cluster's queue: p1, p2 or p3."""
    time_limit_seconds: int | None = None
    """Wall-clock limit of a job of the cluster."""
    fp16_type: str | None = None
    """16-bit type; null: as the precision says."""
    precision_opt_level: int | None = None
    """How far arithmetic may be traded for speed; null: the release's default."""
    job_labels: Mapping[str, str] = field(default_factory=dict)
    """Of the cluster's jobs, to find them by."""


def options_of(
    target: CerebrasTargetSpec, site: CerebrasSite, *, labels: Mapping[str, str], priority: str = "p2"
) -> Options:
    """The options of a job on a site; `priority` is the job's own, for a target that says none.

    Raises:
        InvalidInputError: the site does not say where its cluster is.
    """
    for name in ("mgmt_address", "mgmt_namespace"):
        if not getattr(site, name):
            raise InvalidInputError(
                "must be set: what the client finds by itself may be another cluster",
                field=f"REGRAFT_CEREBRAS_{name.upper()}",
                value="",
                remedy="Set it to what the cluster's administrator gave you.",
            )
    return Options(
        mgmt_address=site.mgmt_address,
        mgmt_namespace=site.mgmt_namespace,
        credentials_path=site.credentials_path,
        mount_dirs=tuple(map(str, site.mounts)),
        python_paths=site.paths,
        compile_dir=target.compile_dir or site.compile_dir,
        num_csx=target.num_csx,
        workers=target.workers,
        weight_servers=target.weight_servers,
        activation_servers=target.activation_servers,
        priority=target.priority or priority,
        time_limit_seconds=target.time_limit_seconds,
        fp16_type=target.fp16_type,
        precision_opt_level=target.precision_opt_level,
        job_labels=dict(labels),
    )


def runconfig_keys(options: Options, release: Release) -> tuple[Section, list[str]]:
    """Keys of `runconfig`, and flags for what a release has no key for."""
    found = {flat: value for name, flat, _ in _KEYS if (value := _value(options, name))}
    if options.compile_dir:
        found["compile_dir"] = options.compile_dir
    if options.precision_opt_level is not None:
        found["precision_opt_level"] = options.precision_opt_level
    if release >= _PRIORITY_KEY_SINCE:
        return found, []
    return found, ["--job_priority", str(found.pop("job_priority"))]


def backend_keys(options: Options) -> Section:
    """The section `backend` of the trainer form."""
    found: Section = {"backend_type": "CSX"}
    if options.compile_dir:
        found["compile_dir"] = options.compile_dir
    return found | {"cluster_config": {key: value for name, _, key in _KEYS if (value := _value(options, name))}}


def read_runconfig(section: Mapping[str, object]) -> dict[str, object]:
    """Fields of `Options` from a `runconfig`; the inverse of `runconfig_keys`."""
    return _read(section, {flat: name for name, flat, _ in _KEYS} | {"compile_dir": "compile_dir"})


def read_backend(section: Mapping[str, object]) -> dict[str, object]:
    """Fields of `Options` from a `backend`; the inverse of `backend_keys`."""
    cluster = section.get("cluster_config")
    assert isinstance(cluster, dict | None), "checked"
    return _read({**section, **(cluster or {})}, {key: name for name, _, key in _KEYS} | {"compile_dir": "compile_dir"})


def _value(options: Options, name: str) -> object:
    found = getattr(options, name)
    if isinstance(found, Mapping):
        return [f"{key}={value}" for key, value in found.items()]
    return list(found) if isinstance(found, tuple) else found


def _read(section: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    found = {name: section[key] for key, name in names.items() if section.get(key) is not None}
    for name, value in found.items():
        if name == "job_labels" and isinstance(value, list):
            found[name] = dict(str(pair).split("=", 1) for pair in value)
        elif isinstance(value, list):
            found[name] = tuple(value)
    return found
