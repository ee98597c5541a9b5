"""Artifacts of a bucket on this machine's disk: what a stage reads is brought here, what it makes is sent from here.

The computing cores work on folders: they map weights into memory, read HDF5 at random, and publish by renaming. Where
storage is a bucket they get a folder of this machine with the same layout, and a URI under the bucket's root stands for
the folder of the same name here. What is here is a copy, as a rule: it may be deleted whenever no stage uses it, which
`make_room` does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.storage.depot import Depot
from regraft.storage.local import to_uri
from regraft.storage.manifest import NAME, parse_manifest, read_manifest, verify
from regraft.storage.s3 import SCHEME
from regraft.storage.s3_upload import Tick

_OUTPUT = "output_uri"
_OF = ".of"
_TELLING = ".json"
_SHARED = ("datasets", "checkpoints")
"""Folders of artifacts that are named by their content."""


def is_remote(uri: str) -> bool:
    """Whether storage at this address is a bucket."""
    return uri.startswith(f"{SCHEME}://")


class Mirror:
    """The bucket's root and its folder here. `epoch`: the attempt that publishes.

    What it uses is locked until `release`, or the end of the process.
    """

    def __init__(self, root: str, folder: Path, *, epoch: int = 0) -> None:
        self.folder, self.epoch = folder, epoch
        self.depot = Depot(root, notes=folder / ".uploads")
        self._held: list[TextIO] = []

    def path(self, uri: str) -> Path:
        """The folder that stands for an artifact of the bucket.

        Raises:
            InvalidInputError: the address leads out of it.
        """
        name = uri.removeprefix(self.depot.root).strip("/")
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise InvalidInputError(
                "this names no artifact", field="uri", value=uri, remedy="Give its address as it was reported."
            )
        return self.folder / name

    def uri(self, folder: Path) -> str:
        """The artifact of the bucket that a folder stands for."""
        return f"{self.depot.root}/{folder.relative_to(self.folder).as_posix()}"

    def localised(self, value: Any, *, field: str = "", tick: Tick = lambda count: None) -> Any:
        """A task with folders of this machine in the place of the bucket's; artifacts that it reads are brought here.

        Raises:
            InvalidDataError: an artifact is damaged.
            StorageFailedError: the store cannot be used.
        """
        if isinstance(value, Mapping):
            return {name: self.localised(inner, field=name, tick=tick) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.localised(inner, field=field, tick=tick) for inner in value]
        if not isinstance(value, str) or not self._is_ours(value):
            return value
        folder = self.path(value)
        self.use(folder)
        if field != _OUTPUT:
            self.fetch(value, tick=tick)
        return to_uri(folder)

    def abroad(self, value: Any) -> Any:
        """What a stage says, with the bucket's addresses in the place of this machine's folders."""
        if isinstance(value, Mapping):
            return {name: self.abroad(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.abroad(inner) for inner in value]
        here = to_uri(self.folder)
        if isinstance(value, str) and (value == here or value.startswith(f"{here}/")):
            return self.depot.root + value[len(here) :]
        return value

    def fetch(self, uri: str, *, tick: Tick = lambda count: None) -> bool:
        """Bring an artifact here, verified; False: the bucket has none of that name.

        Raises:
            InvalidDataError: it is damaged there.
        """
        folder = self.path(uri)
        with self._alone(folder):
            kept = self.depot.kept(uri)
            if kept is None:
                return False
            if not _is_same(folder, kept.raw):
                draft = folder.parent / f".fetch-{folder.name}"
                draft.mkdir(parents=True, exist_ok=True)
                _drop_others(draft, kept.raw)
                self.depot.fetch(uri, draft, tick=tick)
                (draft / _OF).unlink()
                shutil.rmtree(folder, ignore_errors=True)
                draft.rename(folder)
            (folder / NAME).touch()
        return True

    def fetch_manifest(self, uri: str) -> bool:
        """Bring what tells of an artifact, when it is whole in the bucket; False: it is not.

        That is its manifest, and the JSON files beside it, such as a corpus report.
        """
        kept = self.depot.kept(uri)
        if kept is None or not self.depot.is_whole(uri, kept.manifest):
            return False
        folder = self.path(uri)
        if not _is_same(folder, kept.raw):
            folder.mkdir(parents=True, exist_ok=True)
            for entry in kept.manifest.files:
                if "/" not in entry.path and entry.path.endswith(_TELLING):
                    (folder / entry.path).unlink(missing_ok=True)
                    self.depot.fetch_file(uri, folder, entry)
            (folder / NAME).write_bytes(kept.raw)
        return True

    def publish(self, folder: Path, *, seen: Path | None = None, tick: Tick = lambda count: None) -> None:
        """Send an artifact; `seen`: a folder with the same files, to read them from instead."""
        shared = folder.relative_to(self.folder).parts[0] in _SHARED
        self.depot.publish(seen or folder, self.uri(folder), epoch=None if shared else self.epoch, tick=tick)

    def use(self, folder: Path) -> None:
        """Say that this process works with what lies in `folder`."""
        lock = self._lock_file(folder)
        fcntl.flock(lock, fcntl.LOCK_SH)
        self._held.append(lock)

    def release(self) -> None:
        """Nothing here is used by this process any more."""
        while self._held:
            self._held.pop().close()

    def make_room(self, most_bytes: int) -> int:
        """Delete copies of artifacts that nobody here uses, the longest unused first, down to `most_bytes` in all.

        Only what the bucket has, too, is deleted. Returns the bytes that were freed.
        """
        found = sorted(self._copies(), key=lambda folder: (folder / NAME).stat().st_mtime)
        sizes = {folder: _size(folder) for folder in found}
        total, freed = sum(sizes.values()), 0
        for folder in found:
            if total - freed > most_bytes and self._is_spare(folder):
                shutil.rmtree(folder)
                freed += sizes[folder]
        return freed

    def _copies(self) -> Iterator[Path]:
        for base, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if NAME in files:
                folders.clear()
                yield Path(base)

    def _is_spare(self, folder: Path) -> bool:
        if any(self._is_used(place) for place in (folder, *folder.parents) if place.is_relative_to(self.folder)):
            return False
        kept = self.depot.kept(self.uri(folder))
        return kept is not None and kept.raw == (folder / NAME).read_bytes()

    def _is_used(self, folder: Path) -> bool:
        with self._lock_file(folder) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """One process of this machine at a time fetches an artifact."""
        with self._lock_file(folder, kind="fetch") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lock_file(self, folder: Path, *, kind: str = "use") -> TextIO:
        locks = self.folder / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
        return (locks / f"{kind}-{name}").open("w", encoding="ascii")

    def _is_ours(self, uri: str) -> bool:
        return uri.startswith(f"{self.depot.root}/")


def _is_same(folder: Path, raw: bytes) -> bool:
    """Whether the copy here is of this manifest and has all its files, by size."""
    path = folder / NAME
    if not path.is_file() or path.read_bytes() != raw:
        return False
    try:
        manifest = read_manifest(folder)
        assert manifest is not None
        verify(folder, manifest, digests=False)
    except InvalidDataError:
        return False
    return True


def _drop_others(draft: Path, raw: bytes) -> None:
    """What an earlier, unfinished fetch of another version has left."""
    note = draft / _OF
    if not note.is_file() or note.read_bytes() != raw:
        shutil.rmtree(draft)
        draft.mkdir()
        note.write_bytes(raw)


def _size(folder: Path) -> int:
    manifest = parse_manifest((folder / NAME).read_bytes(), where=str(folder))
    paths = (folder / entry.path for entry in manifest.files)
    return sum(path.stat().st_size for path in paths if path.is_file())
