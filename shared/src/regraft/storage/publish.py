"""Publishing a folder so that it either exists whole or not at all.

Files are written under a temporary name beside the final one; `publish` syncs them, writes the manifest last, and
renames the folder. A crash at any point leaves a `.tmp-*` folder that the next publication of the same name removes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import InvalidDataError
from regraft.storage.manifest import NAME, FileEntry, Manifest, file_sha256, read_manifest, verify


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
    folder = final.parent / f".tmp-{final.name}-{os.getpid()}"
    _remove_leftovers(final)
    folder.mkdir()
    draft = Draft(folder)
    try:
        yield draft
        _seal(draft, kind=kind, address=final.name)
        _move_into_place(folder, final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


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
            shutil.rmtree(folder)
            return
        shutil.rmtree(final)
    folder.rename(final)
    _sync(final.parent)


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


def _remove_leftovers(final: Path) -> None:
    # Only drafts of this very name, and only of processes that are gone: another worker may be writing its own.
    for leftover in final.parent.glob(f".tmp-{final.name}-*"):
        pid = leftover.name.rsplit("-", 1)[1]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
