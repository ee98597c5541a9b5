"""Which corpora and checkpoints a job may name: folders and schemes that the deployment allows.

Without it, whoever may post a job may read every file that a worker can. Symbolic links are followed before the
comparison, in every part of the path and in what a folder holds. What it does not do: hold the files still. A link that
is put there after the check is met by the same check in the worker, just before the stage starts, and by nothing later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from regraft.errors import InvalidInputError
from regraft.settings import Settings
from regraft.specs import JobSpec
from regraft.storage import local_path

FIELDS = re.compile(r"(uri|uris|tokenizer)$")
OWN_TOKENIZER = "checkpoint"
WILDCARDS = re.compile(r"[*?\[]")
EXAMINED = 100_000  # entries of a folder or matches of a pattern that are looked at


def check_uris(spec: JobSpec, settings: Settings) -> None:
    """Refuse a job that names a place outside the allowed ones.

    Raises:
        InvalidInputError: it does, with the field.
    """
    for field, uri in named_places(spec.model_dump(mode="json", by_alias=True, exclude={"labels"})):
        _check(uri, field, settings)


def named_places(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Every place that a spec names, with its field: strings under `uri`, `uris`, `tokenizer`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from named_places(inner, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from named_places(inner, field)
    elif isinstance(value, str) and FIELDS.search(field) and value != OWN_TOKENIZER:
        yield field, value


def _check(uri: str, field: str, settings: Settings) -> None:
    scheme, found, _ = uri.partition("://")
    scheme = scheme if found else "file"
    if scheme not in settings.schemes:
        allowed = ", ".join(sorted(settings.schemes))
        remedy = f"Allowed are: {allowed}. Whoever runs this deployment can add to REGRAFT_ALLOWED_SCHEMES."
        raise _refusal(f"the scheme {scheme!r} is not allowed here", field, uri, remedy)
    if scheme != "file" or settings.roots == (Path("/"),):
        return
    roots = [root.resolve() for root in settings.roots]
    if not all(_under(place, roots) for place in _places(local_path(uri, field=field))):
        shown = ", ".join(str(root) for root in settings.roots) or "none"
        remedy = f"Allowed folders: {shown}. Whoever runs this deployment can add to REGRAFT_ALLOWED_ROOTS."
        raise _refusal("this place is outside the folders that jobs may read", field, uri, remedy)


def _under(place: Path, roots: Sequence[Path]) -> bool:
    resolved = place.resolve()
    return any(resolved.is_relative_to(root) for root in roots)


def _places(path: Path) -> Iterator[Path]:
    """The path itself, or what a pattern matches, and every symbolic link in a folder."""
    if WILDCARDS.search(str(path)):
        fixed = Path(*_before_wildcard(path))
        yield fixed
        pattern = str(path.relative_to(fixed))
        for match in islice(fixed.glob(pattern), EXAMINED):
            yield from _places_in(match)
    else:
        yield from _places_in(path)


def _before_wildcard(path: Path) -> Iterator[str]:
    for part in path.parts:
        if WILDCARDS.search(part):
            return
        yield part


def _places_in(path: Path) -> Iterator[Path]:
    yield path
    entries = ((base, name) for base, folders, files in os.walk(path) for name in (*folders, *files))
    for base, name in islice(entries, EXAMINED):
        entry = Path(base, name)
        if entry.is_symlink():
            yield entry


def _refusal(message: str, field: str, uri: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(message, field=field, value=uri, remedy=remedy, reason="place_not_allowed")
