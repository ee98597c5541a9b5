"""A checkpoint to read, whatever its format and encoding, and the names of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from regraft.checkpoint_files import Place, locate, read_json
from regraft.checkpoint_info import EXTRA_FILES, inspect_checkpoint, read_architecture
from regraft.errors import InvalidDataError, RegraftError
from regraft.families import Architecture, Family
from regraft.storage import read_manifest
from regraft_worker.conversion.config_dropout import rates_that_are_lost
from regraft_worker.conversion.cs_config import hf_config, read_section
from regraft_worker.conversion.hf import check_dtypes, model_tensors
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import without_prefixes
from regraft_worker.conversion.opened import Opened, open_checkpoint
from regraft_worker.conversion.side import Side


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint whose config and tensors are understood, while it is open."""

    place: Place
    config: Mapping[str, object]
    """As Hugging Face writes it."""
    side: Side
    weights: tuple[Path, ...]
    files: tuple[Path, ...]
    """Every file whose bytes decide what comes out."""
    has_optimizer: bool
    lost: tuple[str, ...] = ()
    """What its own config says and Hugging Face's has no word for."""

    @property
    def folder(self) -> Path:
        return self.place.folder

    @property
    def family(self) -> Family:
        return self.side.family

    @property
    def architecture(self) -> Architecture:
        return self.side.architecture

    def hf_tensors(self) -> list[Lazy]:
        """As Hugging Face has them, ordered by name."""
        found = self.side.under("hf")
        return [found[name] for name in sorted(found)]


@contextmanager
def open_source(path: Path, *, field: str = "base_checkpoint.uri") -> Iterator[Source]:
    """Open a Hugging Face folder, weight file or index, or a Cerebras `.mdl`, of any encoding.

    Raises:
        InvalidInputError: there is nothing at `path`, or no config beside it.
        InvalidDataError: it is no usable checkpoint.
    """
    with _about(field):
        place = locate(path, field=field)
        if not place.is_cs:
            inspect_checkpoint(path, field=field)
        config = _config(place, field=field)
        family, architecture = read_architecture(config)
        with open_checkpoint(place.weights) as opened:
            yield Source(
                place=place,
                config=config,
                side=_side(place, opened, family, architecture),
                weights=opened.files,
                files=_files(place, opened),
                has_optimizer=opened.has_optimizer,
                lost=rates_that_are_lost(read_section(place.config), family=family) if place.is_cs else (),
            )


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


def _side(place: Place, opened: Opened, family: Family, architecture: Architecture) -> Side:
    if not place.is_cs:
        tensors = model_tensors(family, architecture, opened.tensors)
        return Side(family=family, architecture=architecture, naming="hf", tensors=tensors)
    side = Side(family=family, architecture=architecture, naming="cs", tensors=without_prefixes(opened.model))
    side.under("hf")  # refuses what is missing, unknown or misshapen, and copies that differ
    check_dtypes(side.tensors)
    return side


def _config(place: Place, *, field: str) -> dict[str, object]:
    if not place.is_cs:
        return read_json(place.config, field=field)
    return hf_config(read_section(place.config)) | _token_ids(place.folder)


def _token_ids(folder: Path) -> dict[str, object]:
    """Cerebras' config has no token ids; the generation config beside it may."""
    path = folder / "generation_config.json"
    known = read_json(path, field="checkpoint") if path.is_file() else {}
    return {key: known[key] for key in ("bos_token_id", "eos_token_id") if key in known}


def _files(place: Place, opened: Opened) -> tuple[Path, ...]:
    index = () if place.weights in opened.files else (place.weights,)
    extra = (place.folder / name for name in EXTRA_FILES)
    return (place.config, *opened.files, *index, *(path for path in extra if path.is_file()))


@contextmanager
def _about(field: str) -> Iterator[None]:
    """What is wrong with the checkpoint as a whole is about the field that names it."""
    try:
        yield
    except RegraftError as error:
        if error.field == "checkpoint":
            error.field = field
        raise
