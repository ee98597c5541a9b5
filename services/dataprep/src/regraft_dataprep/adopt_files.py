"""HDF5 files where HDF5 can seek in them, and its reader finds them: in a folder of this machine.

A folder that lies here and holds nothing but what is read is taken as it is. Of everything else a folder of links is
made, in which every file that was named ends in `.h5`, to the files here and to copies of those that lie elsewhere. All
of it lies in one work folder, as units that are named by their content: a copy that an earlier run has made is used
when its bytes are still the ones that are wanted, and neither another name nor another `data_params.json` finds
the links of that run. The trade-off: disk for the copies until the dataset is published, and they are made before it is
known whether it exists already.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import InterruptedStageError, InvalidInputError
from regraft.ports import Progress
from regraft.storage import local_path
from regraft_dataprep.shards import check_space
from regraft_dataprep.sources._files import FIELD, File
from regraft_dataprep.sources.base import Source, corpus_changed
from regraft_dataprep.work import WorkFolder

PARAMS = "data_params.json"
_SUFFIX = ".h5"  # what the reader of windows looks for
_COPY = "data"
_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Brought:
    """Files in one folder of this machine."""

    folder: Path
    digests: dict[Path, str]
    """sha256 of every file."""


class NamedFiles:
    """The files that one `uri` of a dataset names, as one folder."""

    def __init__(self, uris: Sequence[str], source: Source, digests: Sequence[str]) -> None:
        """`digests`: sha256 of each file of `source`.

        Raises:
            InvalidInputError: they do not make one folder.
        """
        self._params = {folder: _read(f"{folder}/{PARAMS}") for folder in {file.folder for file in source.files}}
        self._beside = _beside(source.files, self._params)
        self._files = {_name(file): file for file in source.files}
        self._digests = dict(zip(self._files, digests, strict=True))
        self._own = _own_folder(uris, source.files)

    def bring(self, room: Path, progress: Progress) -> Brought:
        """All files in one folder: their own, or one in `room`.

        Raises:
            InterruptedStageError: asked to stop; whole copies are kept.
            InvalidDataError: a file has other bytes than before.
            OSError: they cannot be read, or no space is left.
        """
        folder = self._own or self._in_room(WorkFolder(room), progress)
        return Brought(folder, {folder / name: digest for name, digest in self._digests.items()})

    def check_unchanged(self) -> None:
        """Raises InvalidDataError when a `data_params.json` says something else than it did."""
        for folder, content in self._params.items():
            if _read(f"{folder}/{PARAMS}") != content:
                raise corpus_changed(f"{folder}/{PARAMS}")

    def _in_room(self, work: WorkFolder, progress: Progress) -> Path:
        work.clear()
        return self._linked({name: self._place(name, work, progress) for name in self._files}, work)

    def _place(self, name: str, work: WorkFolder, progress: Progress) -> Path:
        """The file itself when it lies here, else its copy."""
        file, digest = self._files[name], self._digests[name]
        if _is_here(file.uri):
            return _path_of(file)
        copy = work.folder(digest) / _COPY
        if work.is_done(digest) and _sha256(copy) != digest:
            shutil.rmtree(work.folder(digest), ignore_errors=True)
        if not work.is_done(digest):
            with work.make(digest) as folder:
                _copy(file, folder / _COPY, digest, progress)
        return copy

    def _linked(self, places: dict[str, Path], work: WorkFolder) -> Path:
        """A folder of links to these places, named by all that it holds."""
        contents = {folder: content.hex() for folder, content in self._beside.items()}
        content = json.dumps([{name: str(place) for name, place in places.items()}, contents], sort_keys=True)
        unit = f"links-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
        if not work.is_done(unit):
            with work.make(unit) as folder:
                for name, place in places.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).symlink_to(place)
                for beside, params in self._beside.items():
                    if params:
                        (folder / beside / PARAMS).write_bytes(params)
        return work.folder(unit)


def _is_here(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def _path_of(file: File) -> Path:
    """fsspec does not quote what it makes an address of, so nothing is unquoted here."""
    return Path(file.uri.removeprefix("file://"))


def _name(file: File) -> str:
    """Where the file is put in a folder of links, ending as the reader wants it to."""
    if Path(file.name).is_absolute() or ".." in Path(file.name).parts:
        raise InvalidInputError(
            "this file's name leads out of the folder that was named",
            field=FIELD,
            value=file.uri,
            remedy="Name the file itself, or give the object another key.",
        )
    name = Path(file.name).as_posix()
    return name if name.endswith(_SUFFIX) else name + _SUFFIX


def _own_folder(uris: Sequence[str], files: Sequence[File]) -> Path | None:
    """The folder here that is named, if the reader would find in it what was found, no more and no less."""
    if len(uris) != 1 or not _is_here(uris[0]):
        return None
    folder = local_path(uris[0], field=FIELD)
    readable = {str(path) for path in folder.rglob(f"*{_SUFFIX}")} if folder.is_dir() else set()
    return folder if readable == {file.uri for file in files} else None


def _beside(files: Sequence[File], params: dict[str, bytes]) -> dict[str, bytes]:
    """What the `data_params.json` beside the files says, for each folder that they come to."""
    found: dict[str, set[bytes]] = defaultdict(set)
    for file in files:
        found[Path(_name(file)).parent.as_posix()].add(params[file.folder])
    several = next((name for name, count in Counter(map(_name, files)).items() if count > 1), None)
    if several or any(len(contents) > 1 for contents in found.values()):
        raise InvalidInputError(
            "files of different folders do not make one dataset: "
            + (f"several are called {several}" if several else f"their {PARAMS} differ"),
            field=FIELD,
            value=files[0].uri,
            remedy="Name one folder, or mix several datasets with training.mixture.",
        )
    return {folder: contents.pop() for folder, contents in found.items()}


def _read(uri: str) -> bytes:
    """Nothing where there is no such file."""
    if _is_here(uri):
        path = Path(uri.removeprefix("file://"))
        return path.read_bytes() if path.is_file() else b""
    import fsspec  # not above: most adoptions are of a folder that lies here

    system, path = fsspec.core.url_to_fs(uri)
    return bytes(system.cat_file(path)) if system.isfile(path) else b""


def _copy(file: File, copy: Path, digest: str, progress: Progress) -> None:
    """Raises InvalidDataError: these are not the bytes that were there when the digest was taken."""
    found = hashlib.sha256()
    with file.open_raw() as source, copy.open("wb") as target:
        while block := source.read(_BLOCK_BYTES):
            if progress.should_stop():
                raise InterruptedStageError("data preparation was asked to stop; it goes on at this file")
            check_space(copy, len(block))
            found.update(block)
            target.write(block)
    if found.hexdigest() != digest:
        raise corpus_changed(file.uri)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
