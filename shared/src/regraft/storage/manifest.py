"""`manifest.json`: what an artifact consists of, what made it, and what it was made from.

Written last, so that a folder without it is a leftover and not an artifact. Sizes in bytes, digests sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from regraft.errors import InvalidDataError
from regraft.specs.base import Spec

NAME = "manifest.json"


class FileEntry(Spec):
    """One file of an artifact."""

    path: str
    """Relative to the artifact's folder, with forward slashes."""
    bytes: int
    sha256: str

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError("a file of an artifact lies in its folder")
        return path


class Manifest(Spec):
    """The whole artifact."""

    format_version: Literal[1] = 1
    kind: str
    """`dataset`, `checkpoint`, `evaluation` or `export`."""
    address: str
    """Content address, or a name that is unique in its folder."""
    files: tuple[FileEntry, ...]
    parents: dict[str, str] = Field(default_factory=dict)
    """Role to the address or digest of what this was made from."""
    made_by: dict[str, object] = Field(default_factory=dict)
    """The options that made it."""
    summary: dict[str, object] = Field(default_factory=dict)
    """Facts worth knowing without opening the files."""


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an artifact, None when the folder has none.

    Raises:
        InvalidDataError: there is one that cannot be understood.
    """
    try:
        content = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None
    return parse_manifest(content, where=str(folder / NAME))


def parse_manifest(content: bytes, *, where: str) -> Manifest:
    """A manifest out of its file's bytes; `where` it lies is for the error.

    Raises:
        InvalidDataError: it cannot be understood.
    """
    try:
        return Manifest.model_validate(json.loads(content))
    except (ValueError, ValidationError) as error:
        raise InvalidDataError(
            "the manifest cannot be read",
            value=where,
            remedy="Delete the folder; it will be made again.",
            reason="corrupt_artifact",
        ) from error


def rewrite_manifest(folder: Path, manifest: Manifest) -> None:
    """Put another manifest in the place of an artifact's own, in one step: for a part that is given up.

    Delete the files it no longer names afterwards, so that the artifact is whole at every moment.
    """
    draft = folder / f".{NAME}.tmp"
    with draft.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / NAME)


def verify(folder: Path, manifest: Manifest, *, digests: bool = True) -> None:
    """Check every file of an artifact against its manifest.

    Raises:
        InvalidDataError: a file is missing, or has another size or (with `digests`) other bytes.
    """
    for entry in manifest.files:
        path = folder / entry.path
        if not path.is_file():
            raise _damaged(path, "is missing")
        if path.stat().st_size != entry.bytes:
            raise _damaged(path, f"has {path.stat().st_size} bytes, not {entry.bytes}")
        if digests and file_sha256(path) != entry.sha256:
            raise _damaged(path, "has other bytes than were published")


def _damaged(path: Path, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"a published file {what}",
        value=str(path),
        remedy="Delete the artifact's folder; it will be made again.",
        reason="corrupt_artifact",
    )
