"""What can be seen of a job's inputs without reading them: the model's config, sizes and times of files.

A file is taken for the same as long as path, size and time of change are: contents are not hashed here, for a base
checkpoint is tens of gigabytes and the answer is wanted at once. The stages hash them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import iglob
from pathlib import Path

from regraft.checkpoint_files import locate, read_json, weights_at
from regraft.checkpoint_info import read_architecture
from regraft.families import Architecture
from regraft.specs import JobSpec
from regraft.storage import local_path

MOST_FILES = 10_000
"""Of one input; beyond, an input counts as not seen rather than making the caller wait."""
_PLAIN = (".gz", ".zst", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".parquet", ".arrow", ".h5")
"""Suffixes of corpora whose size says little about their text."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """One input, as far as it is here."""

    paths: tuple[Path, ...]
    bytes: int
    newest: float
    """Time of the last change, seconds since 1970."""
    identity: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The inputs of a job."""

    architecture: Architecture | None
    """None: a checkpoint that only the convert stage reads, or one that is not here."""
    checkpoint: Files | None
    corpus: Files | None
    plain_text: bool
    """The size of the corpus says how much text there is."""

    @property
    def identities(self) -> dict[str, str | None]:
        """Field to a digest of what its files look like; None: not seen."""
        found = {"base_checkpoint.uri": self.checkpoint, "dataset.uri": self.corpus}
        return {field: None if files is None else files.identity for field, files in found.items()}


NOTHING = Seen(architecture=None, checkpoint=None, corpus=None, plain_text=False)


def look(spec: JobSpec) -> Seen:
    """Look at the inputs that this machine mounts; those of other addresses are not seen.

    Raises:
        InvalidInputError: the base checkpoint is not there.
        InvalidDataError: its config cannot be understood.
    """
    field = "base_checkpoint.uri"
    place = locate(local_path(spec.base_checkpoint.uri, field=field), field=field)
    weights = (place.weights,) if place.is_cs else weights_at(place.weights, field=field).files
    architecture = None if place.is_cs else read_architecture(read_json(place.config, field=field))[1]
    corpus = _corpus(spec.dataset.uris)
    return Seen(
        architecture=architecture,
        checkpoint=files_of((place.config, *weights)),
        corpus=corpus,
        plain_text=corpus is not None and not any(path.suffix.lower() in _PLAIN for path in corpus.paths),
    )


def files_of(paths: Sequence[Path]) -> Files:
    """Sizes and times of files that are there."""
    facts = [(str(path), status.st_size, status.st_mtime_ns) for path in paths for status in (path.stat(),)]
    return Files(
        paths=tuple(paths),
        bytes=sum(size for _, size, _ in facts),
        newest=max((changed for *_, changed in facts), default=0) / 1e9,
        identity=digest_of(facts),
    )


def digest_of(value: object) -> str:
    """32 hex digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _corpus(uris: Sequence[str]) -> Files | None:
    found: list[Path] = []
    for uri in uris:
        scheme, remote, _ = uri.partition("://")
        if remote and scheme != "file":
            return None
        for path in _files(local_path(uri, field="dataset.uri")):
            found.append(path)
            if len(found) > MOST_FILES:
                return None
    return files_of(sorted(found)) if found else None


def _files(path: Path) -> Iterator[Path]:
    """A file, those of a folder and of what is in it, or those that a pattern matches."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            yield from (Path(folder) / name for name in names if (Path(folder) / name).is_file())
    elif path.is_file():
        yield path
    else:
        matches = (Path(match) for match in iglob(str(path), recursive=True))  # noqa: PTH207  # path is absolute
        yield from (match for match in matches if match.is_file())


def plan_hash(spec: JobSpec, identities: Mapping[str, str | None]) -> str:
    """Of the resolved spec and of what the inputs look like."""
    return digest_of({"spec": spec.model_dump(mode="json", by_alias=True), "inputs": dict(identities)})
