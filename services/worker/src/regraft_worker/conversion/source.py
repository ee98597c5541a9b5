"""A checkpoint to read, whatever its format: always seen as Hugging Face tensors, ordered by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.checkpoint_files import find_weights, read_config, read_json, weights_at
from regraft.checkpoint_info import EXTRA_FILES, inspect_checkpoint, read_architecture
from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import Architecture, Family, expected_tensors
from regraft.storage import read_manifest
from regraft_worker.conversion import cs
from regraft_worker.conversion.cs_config import hf_config, read_section
from regraft_worker.conversion.hf import read_weights
from regraft_worker.conversion.tensors import Named

_BLOCK = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint whose config is understood; its tensors are checked while they are read."""

    folder: Path
    config: Mapping[str, object]
    """As Hugging Face writes it."""
    family: Family
    architecture: Architecture
    files: tuple[Path, ...]
    """Every file whose bytes decide what comes out."""
    tensors: Callable[[], Iterator[Named]]
    """Starts to read from the first tensor, each time it is called."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(expected_tensors(self.family, self.architecture)))


def open_source(path: Path, *, field: str = "base_checkpoint.uri") -> Source:
    """A Hugging Face folder, or a Cerebras `.mdl` with its YAML beside it.

    Raises:
        InvalidInputError: there is nothing at `path`.
        InvalidDataError: it is no usable checkpoint.
    """
    if path.suffix == ".mdl":
        _check_file(path, field=field)
        return open_cs(path, cs.config_beside(path))
    inspect_checkpoint(path, field=field)
    return open_hf(path, field=field)


def open_hf(path: Path, *, config_file: Path | None = None, field: str = "checkpoint") -> Source:
    """A Hugging Face folder, or one weight file or index in it."""
    folder = path if path.is_dir() or not path.exists() else path.parent
    config = read_config(folder, field=field) if config_file is None else read_json(config_file, field="config")
    weights = find_weights(folder, field=field) if path == folder else weights_at(path, field=field)
    family, architecture = read_architecture(config)
    index = (weights.index,) if weights.index else ()
    return Source(
        folder=folder,
        config=config,
        family=family,
        architecture=architecture,
        files=(config_file or folder / "config.json", *weights.files, *index, *_extra_files(folder)),
        tensors=lambda: read_weights(weights, family, architecture),
    )


def open_cs(path: Path, config_file: Path, *, family: Family | None = None) -> Source:
    """A Cerebras `.mdl` and its YAML."""
    config = hf_config(read_section(config_file), family=family) | _token_ids(path.parent)
    found, architecture = read_architecture(config)
    return Source(
        folder=path.parent,
        config=config,
        family=found,
        architecture=architecture,
        files=(path, config_file, *_extra_files(path.parent)),
        tensors=lambda: cs.read_tensors(path, family=found, architecture=architecture),
    )


def digests(source: Source, check: Callable[[], None]) -> dict[str, str]:
    """File name to sha256; `check` is called every few megabytes and may raise."""
    return {path.name: _sha256(path, check) for path in source.files}


def content_address(found: Mapping[str, str], *, salt: str) -> str:
    """32 hex digits that name the content of all these files; `salt` says what is made of it."""
    lines = [salt, *(f"{name} {digest}" for name, digest in sorted(found.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def parent_address(source: Source, found: Mapping[str, str]) -> str:
    """What an artifact made of `source` names as its parent: its address if it is published, else its content's.

    Raises:
        InvalidDataError: it was published with other bytes than `found`.
    """
    manifest = read_manifest(source.folder)
    if manifest is None:
        return content_address(found, salt="source")
    published = {entry.path: entry.sha256 for entry in manifest.files}
    for name, digest in found.items():
        if published.get(name) != digest:
            raise InvalidDataError(
                "a file of the checkpoint has other bytes than were published",
                field="checkpoint",
                value=str(source.folder / name),
                remedy="Use another checkpoint; this one is damaged.",
                reason="corrupt_artifact",
            )
    return manifest.address


def _token_ids(folder: Path) -> dict[str, object]:
    """Cerebras' config has no token ids; the generation config beside it may."""
    path = folder / "generation_config.json"
    known = read_json(path, field="checkpoint") if path.is_file() else {}
    return {key: known[key] for key in ("bos_token_id", "eos_token_id") if key in known}


def _sha256(path: Path, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            check()
    return digest.hexdigest()


def _extra_files(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in EXTRA_FILES if (folder / name).is_file())


def _check_file(path: Path, *, field: str) -> None:
    if not path.is_file():
        raise InvalidInputError(
            "there is no such file",
            field=field,
            value=str(path),
            remedy="Name a file that this machine can see.",
            reason="checkpoint_not_found",
        )
