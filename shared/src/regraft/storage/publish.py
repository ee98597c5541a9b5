"""Publishing a folder so that it either exists whole or not at all.

Files are written in a draft beside the final folder; `publish` syncs them, writes the manifest last, and renames the
folder. A crash at any point leaves a `.tmp-*` folder that the next publication of the same name removes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import InvalidDataError
from regraft.storage.drafts import draft_folder
from regraft.storage.manifest import NAME, FileEntry, Manifest, file_sha256, read_manifest, verify

DRAFTS = ".tmp-"
"""How the name of a draft begins; that of the artifact follows."""


class Draft:
    """A folder being written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parents: dict[str, str] = {}
        self.made_by: Mapping[str, object] = {}
        self.summary: Mapping[str, object] = {}


@contextmanager
def publish(final: Path, *, kind: str) -> Iterator[Draft]:
    """Yield a draft whose folder becomes `final` when the block ends without an exception.

    The files are re-read once for their digests, after being synced. If `final` is there already and its manifest
    verifies, it is kept and the draft dropped (somebody else published the same content first); if it does not
    verify, it is replaced.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with draft_folder(final.with_name(f"{DRAFTS}{final.name}")) as folder:
        draft = Draft(folder)
        yield draft
        _seal(draft, kind=kind, address=final.name)
        _move_into_place(folder, final)
    _sync(final.parent)


def _seal(draft: Draft, *, kind: str, address: str) -> None:
    entries = []
    for path in sorted(p for p in draft.folder.rglob("*") if p.is_file()):
        _sync(path)
        name = path.relative_to(draft.folder).as_posix()
        entries.append(FileEntry(path=name, bytes=path.stat().st_size, sha256=file_sha256(path)))
    manifest = Manifest(
        kind=kind,
        address=address,
        files=tuple(entries),
        parents=draft.parents,
        made_by=dict(draft.made_by),
        summary=dict(draft.summary),
    )
    target = draft.folder / NAME
    target.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _sync(target)
    for directory in [draft.folder, *(p for p in draft.folder.rglob("*") if p.is_dir())]:
        _sync(directory)


def _move_into_place(folder: Path, final: Path) -> None:
    if final.exists():
        if is_published(final):
            return
        shutil.rmtree(final)
    folder.rename(final)


def is_published(folder: Path) -> bool:
    """True when the folder is a whole artifact, every byte of it as published."""
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return False
        verify(folder, manifest)
    except InvalidDataError:
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
