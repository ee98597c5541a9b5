"""Job files: the body of `POST /jobs` as YAML (or JSON, which is YAML)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from regraft.errors import InvalidInputError
from regraft.storage import local_path

_PATHS = (
    ("dataset", "uri"),
    ("dataset", "tokenizer"),
    ("dataset", "validation", "uri"),
    ("base_checkpoint", "uri"),
    ("training", "mixture", "uri"),
)


def read_job_file(path: Path) -> dict[str, Any]:
    """The job in a file, with paths made absolute from the file's folder, as the API knows no working directory.

    Raises:
        InvalidInputError: the file is not there, or holds no mapping.
    """
    try:
        job = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"cannot be read: {error.strerror}", field="job file", value=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"is not YAML: {error}", field="job file", value=str(path)) from error
    if not isinstance(job, Mapping):
        raise InvalidInputError("holds no job (a mapping of fields)", field="job file", value=str(path))
    resolved = dict(job)
    for path_to in _PATHS:
        _make_absolute(resolved, path_to, base=path.parent)
    return resolved


def _make_absolute(job: dict[str, Any], where: tuple[str, ...], *, base: Path) -> None:
    """Change the value at `where`, copying what it lies in; lists on the way are gone through one by one."""
    key, *rest = where
    value = job.get(key)
    if not rest:
        if isinstance(value, list | tuple):
            job[key] = [_absolute(one, base) for one in value]
        elif isinstance(value, str):
            job[key] = _absolute(value, base)
        return
    several = value if isinstance(value, list | tuple) else [value]
    copies = [dict(one) if isinstance(one, Mapping) else one for one in several]
    for copy in copies:
        if isinstance(copy, dict):
            _make_absolute(copy, tuple(rest), base=base)
    if key in job:
        job[key] = copies if isinstance(value, list | tuple) else copies[0]


def _absolute(value: object, base: Path) -> object:
    """A path as a URI; what is no path (a URL, a keyword, a mistake for the API to name) as it is."""
    if not isinstance(value, str) or "://" in value or value in ("", "checkpoint"):
        return value
    path = local_path(value) if value.startswith("~") else base / value
    return path.resolve().as_uri()
