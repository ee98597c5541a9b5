"""The files of a checkpoint: its config, and where its weights are. Hugging Face's and Cerebras'.

A folder comes from a stranger: files are read up to a limit, an index may only name files beside itself, and every
refusal says which field of the request, which value, and what to do.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from regraft.errors import InvalidDataError, InvalidInputError

MAX_JSON_BYTES = 64 * 1024 * 1024
# In the order in which Hugging Face looks for them.
_CANDIDATES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".mdl", ".index.json")
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Place:
    """A checkpoint whose files are there."""

    folder: Path
    weights: Path
    """One file, or the index of several."""
    config: Path
    """`config.json`, or of a Cerebras checkpoint a YAML."""

    @property
    def is_cs(self) -> bool:
        return self.config.suffix in _YAML


@dataclass(frozen=True)
class Weights:
    """Where the tensors are."""

    kind: Literal["safetensors", "bin"]
    files: tuple[Path, ...]
    """Sorted by name."""
    index: Path | None = None
    weight_map: Mapping[str, str] = field(default_factory=dict)
    """Tensor to file name, as the index says; empty for a single file."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the weight files and of the index."""
        return tuple(path.name for path in (*self.files, *([self.index] if self.index else [])))


def locate(path: Path, *, field: str) -> Place:
    """The weights and the config that `path` stands for: a folder, a weight file, or an index of shards.

    A folder with a `config.json` is Hugging Face's, whatever else is in it; one without is Cerebras' when it has a
    single `.mdl`.

    Raises:
        InvalidInputError: there is nothing at `path`, or no config beside the weights.
        InvalidDataError: the folder has no config or no weights.
    """
    if path.name.endswith(WEIGHT_SUFFIXES) and not path.is_dir():
        return _place_of_file(path, field=field)
    _check_folder(path, field=field)
    models = sorted(path.glob("*.mdl"))
    if len(models) == 1 and not (path / "config.json").is_file():
        return _place_of_file(models[0], field=field)
    read_config(path, field=field)  # one that cannot be understood is said before weights are missed
    weights = find_weights(path, field=field)
    return Place(path, weights.index or weights.files[0], path / "config.json")


def config_beside(path: Path) -> Path:
    """The YAML that belongs to a `.mdl`: same stem, or `config` for the part before `_to_cs-`, or the only one.

    Raises:
        InvalidInputError: there is none, or more than one to choose from.
    """
    _, found, version = path.stem.partition("_to_cs-")
    named = [path.with_suffix(".yaml"), path.with_name(f"config_to_cs-{version}.yaml")]
    for candidate in named if found else named[:1]:
        if candidate.is_file():
            return candidate
    others = sorted(file for file in path.parent.iterdir() if file.suffix in _YAML)
    if len(others) == 1:
        return others[0]
    raise InvalidInputError(
        f"{len(others)} YAML files beside {path.name}, none of its name",
        field="config",
        value=str(path),
        remedy=f"Put its config beside it as {named[0].name}.",
        reason="no_config",
    )


def read_config(folder: Path, *, field: str) -> dict[str, object]:
    """The `config.json` of a checkpoint folder.

    Raises:
        InvalidInputError: `folder` is no readable folder.
        InvalidDataError: there is no config in it, or one that cannot be understood.
    """
    _check_folder(folder, field=field)
    return read_json(_config_json(folder, field=field), field=field)


def find_weights(folder: Path, *, field: str) -> Weights:
    """The weight files of a checkpoint folder; safetensors win over `.bin`.

    Raises:
        InvalidDataError: there are none, or the index names a file that is not there.
    """
    for name in _CANDIDATES:
        if (folder / name).is_file():
            return weights_at(folder / name, field=field)
    raise InvalidDataError(
        "the folder has no weights",
        field=field,
        value=str(folder),
        remedy=f"Put one of these beside config.json: {', '.join(_CANDIDATES)}.",
        reason="no_weights",
    )


def weights_at(path: Path, *, field: str) -> Weights:
    """The weights that one file, or the index of a sharded checkpoint, stands for."""
    kind: Literal["safetensors", "bin"] = "safetensors" if ".safetensors" in path.suffixes else "bin"
    if path.suffix != ".json":
        return Weights(kind, (path,))
    weight_map = _weight_map(path, field=field)
    files = tuple(path.parent / name for name in sorted(set(weight_map.values())))
    for file in files:
        if not file.is_file():
            raise InvalidDataError(
                f"{path.name} names {file.name}, which is not there",
                field=field,
                value=str(file),
                remedy="Download the missing file.",
                reason="missing_shard",
            )
    return Weights(kind, files, path, weight_map)


def read_json(path: Path, *, field: str) -> dict[str, object]:
    """The JSON object in a file of modest size."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
        content = json.loads(raw) if len(raw) <= MAX_JSON_BYTES else None
    except OSError as error:
        raise _bad_json(path, f"{path.name} cannot be read ({error.strerror})", field=field) from error
    except (ValueError, RecursionError) as error:
        raise _bad_json(path, f"{path.name} is not valid JSON", field=field) from error
    if not isinstance(content, dict):
        raise _bad_json(path, f"{path.name} is not a JSON object of at most {MAX_JSON_BYTES} bytes", field=field)
    return content


def _place_of_file(path: Path, *, field: str) -> Place:
    if not path.is_file():
        raise InvalidInputError(
            "there is no such file",
            field=field,
            value=str(path),
            remedy="Name a file that this machine can see.",
            reason="checkpoint_not_found",
        )
    if path.suffix == ".mdl":
        return Place(path.parent, path, config_beside(path))
    return Place(path.parent, path, _config_json(path.parent, field=field))


def _config_json(folder: Path, *, field: str) -> Path:
    path = folder / "config.json"
    if not path.is_file():
        raise InvalidDataError(
            "the folder has no config.json",
            field=field,
            value=str(folder),
            remedy="Name the folder of a Hugging Face model: config.json, weights and tokenizer side by side.",
            reason="no_config",
        )
    return path


def _check_folder(folder: Path, *, field: str) -> None:
    try:
        mode = folder.stat().st_mode
        readable = os.access(folder, os.R_OK | os.X_OK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInputError(
            "there is no such folder",
            field=field,
            value=str(folder),
            remedy="Name a folder that this machine can see.",
            reason="checkpoint_not_found",
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise _unreadable(folder, field=field) from error
    if not stat.S_ISDIR(mode):
        raise InvalidInputError(
            "this is not a folder",
            field=field,
            value=str(folder),
            remedy=f"Name the folder that holds config.json and the weights, or a file {', '.join(WEIGHT_SUFFIXES)}.",
            reason="checkpoint_not_a_folder",
        )
    if not readable:
        raise _unreadable(folder, field=field)


def _unreadable(folder: Path, *, field: str) -> InvalidInputError:
    return InvalidInputError(
        "the folder cannot be read",
        field=field,
        value=str(folder),
        remedy="Give the service permission to read it.",
        reason="checkpoint_unreadable",
    )


def _weight_map(path: Path, *, field: str) -> dict[str, str]:
    weight_map = read_json(path, field=field).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad_json(path, f"{path.name} has no weight_map", field=field)
    for name in weight_map.values():
        # A name with a slash would reach out of the folder.
        if not isinstance(name, str) or not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise _bad_json(path, f"{path.name} names a file that is not beside it: {str(name)[:200]!r}", field=field)
    return weight_map


def _bad_json(path: Path, what: str, *, field: str) -> InvalidDataError:
    return InvalidDataError(
        what, field=field, value=str(path), remedy="Download or write the file again.", reason="broken_json"
    )
