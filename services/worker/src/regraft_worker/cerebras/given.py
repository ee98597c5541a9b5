"""A user's params file and command line for a Cerebras cluster: what is in force, checked before anything starts.

Keys that say where and how to run, and those of the inputs, are checked here; model and optimizer are the client's to
judge, which knows models that this project does not. The trade-off: a misspelt key in those costs a start of the
client, though not a job of the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from regraft.cerebrassite import CerebrasSite
from regraft.errors import InvalidInputError
from regraft_worker.cerebras.options import Section, read_backend, read_runconfig
from regraft_worker.cerebras.rendering import is_flat, numbers
from regraft_worker.zoo.keys import (
    CLUSTER_KEYS,
    FLAT_SECTIONS,
    READER_KEYS,
    RUNCONFIG_NO_EFFECT,
    RUNCONFIG_REFUSED,
    RUNCONFIG_USED,
    section_of,
    sort_keys,
    words,
)

_RUNCONFIG = RUNCONFIG_USED | RUNCONFIG_NO_EFFECT | RUNCONFIG_REFUSED
_BACKEND = words(
    "backend_type cluster_config compile_dir compile_only validate_only drop_data max_checkpoints "
    "retrace_every_iteration use_cs_grad_accum main_process_id"
)
_LISTS = ("mount_dirs", "python_paths")
_OF_SITE = ("mgmt_address", "mgmt_namespace", "credentials_path", "compile_dir")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run that was asked for."""

    release: str
    content: dict[str, Any]
    """The file."""
    cluster: Mapping[str, Any]
    """Fields of `Options` in force: of the command line, the file, the site, the first that says something."""
    of_site: Mapping[str, Any]
    """Those of them that only the site says, so that the client must be told."""
    inputs: tuple[tuple[str, Section], ...]
    """The input sections, with where they stand."""
    model_dir: Path
    control: Section
    """Steps and checkpoints, by the names of `runconfig`."""

    def with_model_dir(self, model_dir: Path | None) -> Asked:
        """The same in another folder, if one is given."""
        return self if model_dir is None else replace(self, model_dir=model_dir)


def read_asked(path: Path, given: Mapping[str, Any], *, site: CerebrasSite, mode: str) -> Asked:
    """Read the file; `given` are keys of `runconfig` from the command line.

    Raises:
        InvalidInputError: it cannot be read, is of another form than the release's, or has an unknown key.
    """
    content = _content(path)
    flat = is_flat(site.release)
    _check_form(content, flat=flat, release=site.release, path=path)
    found, control = (_flat if flat else _trainer)(content)
    _check_labels(given.get("job_labels"), "--job_labels")
    from_flags = read_runconfig(given)
    cluster = {**found, **from_flags}
    cluster |= {name: (*found.get(name, ()), *from_flags.get(name, ())) for name in _LISTS}
    _check_priority(cluster.get("priority"))
    cluster["job_labels"] = {**found.get("job_labels", {}), **from_flags.get("job_labels", {})}
    of_site = {name: value for name in _OF_SITE if not cluster.get(name) and (value := getattr(site, name))}
    of_site |= {name: value for name, value in _lists_of(site).items() if not cluster[name] and value}
    inputs = _inputs(content, mode=mode)
    return Asked(
        release=site.release,
        content=content,
        cluster={**cluster, **of_site},
        of_site=of_site,
        inputs=inputs,
        model_dir=Path(str(control.get("model_dir") or "model_dir")),
        control={**control, **{key: value for key, value in given.items() if key in RUNCONFIG_USED}},
    )


def _lists_of(site: CerebrasSite) -> dict[str, tuple[str, ...]]:
    return {"mount_dirs": tuple(map(str, site.mounts)), "python_paths": site.paths}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"cannot be read ({error.strerror})", field="--params", value=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError("is no valid YAML", field="--params", value=str(path)) from error
    if not isinstance(content, dict):
        raise InvalidInputError("has no sections", field="--params", value=str(path))
    return content


def _check_form(content: Section, *, flat: bool, release: str, path: Path) -> None:
    if flat == ("trainer" in content):
        form, other = ("flat sections", "the trainer form") if flat else ("the trainer form", "flat sections")
        raise InvalidInputError(
            f"the site's release {release} reads {form}, and the file has {other}",
            field="--params",
            value=str(path),
            remedy="Convert it with the release's own `cszoo config convert_legacy`, or write one for the release "
            "with `regraft params`.",
        )


def _flat(content: Section) -> tuple[dict[str, Any], Section]:
    sort_keys(content, "the params file", used=FLAT_SECTIONS)
    runconfig = section_of(content, "runconfig")
    sort_keys(runconfig, "runconfig", used=_RUNCONFIG)
    _check_labels(runconfig.get("job_labels"), "runconfig.job_labels")
    return read_runconfig(runconfig), runconfig


def _trainer(content: Section) -> tuple[dict[str, Any], Section]:
    init = section_of(section_of(content, "trainer"), "init", "trainer")
    backend = section_of(init, "backend", "trainer.init")
    cluster = section_of(backend, "cluster_config", "trainer.init.backend")
    sort_keys(backend, "trainer.init.backend", used=_BACKEND)
    sort_keys(cluster, "trainer.init.backend.cluster_config", used=CLUSTER_KEYS)
    _check_labels(cluster.get("job_labels"), "trainer.init.backend.cluster_config.job_labels")
    checkpoint = section_of(init, "checkpoint", "trainer.init")
    control = {**section_of(init, "loop", "trainer.init"), "checkpoint_steps": checkpoint.get("steps")}
    fit = section_of(section_of(content, "trainer"), "fit", "trainer")
    return read_backend(backend), {
        **control,
        "model_dir": init.get("model_dir"),
        "checkpoint_path": fit.get("ckpt_path"),
    }


def _check_labels(labels: object, where: str) -> None:
    pairs = labels if isinstance(labels, list) else [] if labels is None else [labels]
    for pair in pairs:
        if not isinstance(pair, str) or "=" not in pair:
            raise InvalidInputError("must be pairs such as team=news", field=where, value=pair)


def _check_priority(priority: object) -> None:
    if priority not in (None, "p1", "p2", "p3"):
        raise InvalidInputError("must be p1, p2 or p3", field="--job_priority", value=priority)


def _inputs(content: Section, *, mode: str) -> tuple[tuple[str, Section], ...]:
    """The input sections that the mode reads."""
    if "trainer" in content:
        blocks = {"eval": "validate", "eval_all": "validate_all"}
        name = blocks.get(mode, "fit")
        block = section_of(section_of(content, "trainer"), name, "trainer")
        wanted = {"train_dataloader"} if mode == "train" else {"train_dataloader", "val_dataloader", "val_dataloaders"}
        found = [(f"trainer.{name}.{key}", block[key]) for key in sorted(wanted & block.keys())]
    else:
        keys = [*(["train_input"] if mode.startswith("train") else []), *(["eval_input"] if mode != "train" else [])]
        found = [(key, content.get(key)) for key in keys]
    parts = [(where, part) for where, value in found for part in (value if isinstance(value, list) else [value])]
    for where, part in parts:
        if not isinstance(part, dict):
            raise InvalidInputError("must be an input section in this mode", field=where, value=part)
        if str(part.get("data_processor", "")).startswith("GptHDF5"):
            sort_keys(part, where, used=READER_KEYS)
    return tuple(parts)


def flags_of_release(given: Mapping[str, Any], release: str) -> None:
    """Refuse flags that the release does not have.

    Raises:
        InvalidInputError: naming the first.
    """
    old = numbers(release) < (2, 0)
    gone = ("load_checkpoint_states", "disable_strict_checkpoint_loading") if old else ("is_pretrained_checkpoint",)
    for name in (name for name in gone if name in given):
        raise InvalidInputError(
            f"release {release} has no such flag",
            field=f"--{name}",
            value=given[name],
            remedy="Use --is_pretrained_checkpoint." if old else "Use --load_checkpoint_states model.",
        )
