"""HDF5 files where HDF5 can seek in them: in a folder of this machine.

A folder that lies here is taken as it is. Of a list or a glob the files are linked into one folder, and what lies
elsewhere is copied first, file by file; a copy that is there from an earlier run is not made again. The trade-off: disk
for the copies until the dataset is published, and they are made before it is known whether it exists already.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from regraft.errors import InterruptedStageError, InvalidInputError
from regraft.ports import Progress
from regraft.storage import local_path
from regraft_dataprep.shards import check_space
from regraft_dataprep.sources._files import FIELD, File
from regraft_dataprep.sources.base import Source

PARAMS = "data_params.json"
_BLOCK_BYTES = 16 * 2**20


def folder_of(uris: Sequence[str], source: Source, *, room: Path, progress: Progress) -> Path:
    """The folder that has the files of `source`, which is what `uris` name: one of theirs, or `room`.

    Raises:
        InvalidInputError: they do not make one folder.
        InterruptedStageError: asked to stop; whole copies are kept.
        OSError: they cannot be read, or no space is left.
    """
    if len(uris) == 1 and _is_here(uris[0]) and local_path(uris[0], field=FIELD).is_dir():
        return local_path(uris[0], field=FIELD)
    params = _params(source.files, room)
    for file in source.files:
        _bring(file, room / file.name, progress)
    for folder, content in params.items():
        if content:
            (folder / PARAMS).write_bytes(content)
    return room


def _is_here(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def _bring(file: File, target: Path, progress: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_here(file.uri):
        target.unlink(missing_ok=True)
        target.symlink_to(file.uri)
    elif not (target.is_file() and target.stat().st_size == file.size()):
        part = target.with_name(f".{target.name}.part")
        with file.open_raw() as source, part.open("wb") as copy:
            while block := source.read(_BLOCK_BYTES):
                if progress.should_stop():
                    raise InterruptedStageError("data preparation was asked to stop; it goes on at this file")
                check_space(part, len(block))
                copy.write(block)
        part.replace(target)


def _params(files: Sequence[File], room: Path) -> dict[Path, bytes]:
    """What the `data_params.json` beside the files says, for each folder that they come to."""
    found: dict[Path, set[bytes]] = defaultdict(set)
    for origin, target in {(file.folder, (room / file.name).parent) for file in files}:
        found[target].add(_read(f"{origin}/{PARAMS}"))
    several = next((name for name, count in Counter(file.name for file in files).items() if count > 1), None)
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
    import fsspec  # not above: most adoptions are of a folder that lies here

    system, path = fsspec.core.url_to_fs(uri)
    return bytes(system.cat_file(path)) if system.isfile(path) else b""
