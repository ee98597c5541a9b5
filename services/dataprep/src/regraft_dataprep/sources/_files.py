"""From what a job calls its corpus to files that can be opened: paths, folders, globs and fsspec URLs, in one order.

A folder is read recursively, limited to the suffixes of the source; files named outright, or by a glob, are taken
whatever they are called. Folders and globs are in the order of their paths, lists in their own; a file that is named
twice is read once. `.gz` and `.zst` are unpacked as they are read. The trade-off: what is packed cannot be read from
the middle. Files can be pickled, for other processes to read. Not for archives of several files (.zip, .tar).
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from regraft.errors import InvalidInputError, StorageFailedError
from regraft.storage import local_path
from regraft_dataprep.sources._streams import buffered, unpacked

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

FIELD = "dataset.uri"
_PACKED = (".gz", ".zst")
_BUFFER_BYTES = 2**20
Uris = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class File:
    """One file of a corpus, here or elsewhere."""

    uri: str
    """Its path, or its URL."""
    name: str
    """Within the folder that was named, or the last part of the path: the same wherever the corpus lies."""
    opener: Callable[[], BinaryIO]
    size: Callable[[], int | None]
    """Bytes as they lie there; None where the file system does not say."""
    stamp: Callable[[], object]
    """Gives something else once the file was changed."""

    @property
    def base(self) -> str:
        """The last part of the path."""
        return self.uri.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """All before it."""
        return self.uri.rpartition("/")[0]

    @property
    def plain(self) -> bool:
        """Not packed: what `open` gives can be read from the middle."""
        return not self.name.lower().endswith(_PACKED)

    def open(self) -> BinaryIO:
        """The content from the start to the end, unpacked by suffix."""
        return unpacked(self.opener(), name=self.name, field=FIELD, uri=self.uri)

    def open_raw(self) -> BinaryIO:
        """The bytes as they lie there, for formats that are read from the middle."""
        return self.opener()


def find_files(uri: Uris, *, suffixes: tuple[str, ...]) -> list[File]:
    """All files that `uri` names, each once.

    Raises:
        InvalidInputError: something named is not there, cannot be read or has a scheme that cannot.
        StorageFailedError: S3 does not answer, or there are no credentials for it.
    """
    uris = [uri] if isinstance(uri, str | os.PathLike) else uri
    found = {file.uri: file for one in uris for file in _found(os.fspath(one), suffixes)}
    return list(found.values())


def _found(uri: str, suffixes: tuple[str, ...]) -> list[File]:
    remote = "://" in uri and not uri.startswith("file://")
    files = list(_remote(uri, suffixes) if remote else _local(uri, suffixes))
    if not files:
        shown = uri if remote else str(local_path(uri, field=FIELD))
        raise InvalidInputError(
            "there is no such file, and no file that this source reads in a folder of this name",
            field=FIELD,
            value=shown,
            remedy="Name a file, a folder or a glob that the dataprep worker can see; in folders, files that end in "
            f"{', '.join(suffixes)} are read.",
            reason="corpus_not_found",
        )
    return files


def _local(uri: str, suffixes: tuple[str, ...]) -> Iterator[File]:
    path = local_path(uri, field=FIELD)
    for found in sorted(_local_paths(path, suffixes), key=Path.as_posix):
        if not os.access(found, os.R_OK):
            raise _not_readable(str(found))
        yield _local_file(found, name=found.relative_to(path).as_posix() if path.is_dir() else found.name)


def _local_paths(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise _not_readable(str(path))
        inside: Iterator[Path] = (
            found for found in path.rglob("*") if _is_wanted(found.relative_to(path).as_posix(), suffixes)
        )
    elif path.exists() or not glob.has_magic(str(path)):
        inside = iter((path,))
    else:
        inside = (Path(found) for found in glob.iglob(str(path), recursive=True))  # noqa: PTH207  # path is absolute
    return [found for found in inside if found.is_file()]


def _local_file(path: Path, *, name: str) -> File:
    return File(str(path), name, partial(_local_open, path), partial(_local_size, path), partial(_local_stamp, path))


def _local_open(path: Path) -> BinaryIO:
    return path.open("rb", buffering=_BUFFER_BYTES)  # as short reads and lines are common


def _local_size(path: Path) -> int:
    return path.stat().st_size


def _local_stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _remote(url: str, suffixes: tuple[str, ...]) -> Iterator[File]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        system.invalidate_cache()
        root = path.rstrip("/") + "/"
        for found in sorted(_remote_paths(system, path, suffixes)):
            name = found.removeprefix(root) if found.startswith(root) else found.rpartition("/")[2]
            yield _remote_file(system, found, name=name)
    except (ImportError, ValueError) as error:
        raise InvalidInputError(
            f"this address cannot be opened: {error}",
            field=FIELD,
            value=url,
            remedy="Use a path, file:///..., or a scheme whose fsspec package is installed (s3:// needs s3fs).",
            reason="unsupported_scheme",
        ) from error
    except PermissionError as error:
        raise _not_readable(url) from error
    except _s3_errors() as error:
        raise StorageFailedError(
            f"this cannot be listed: {error}",
            field=FIELD,
            value=url,
            remedy="Check AWS_ENDPOINT_URL and the credentials in the environment of the dataprep worker.",
        ) from error


def _s3_errors() -> tuple[type[Exception], ...]:
    """What the S3 client raises that is no OSError; without S3 it is not loaded."""
    module = sys.modules.get("botocore.exceptions")
    return (module.BotoCoreError,) if module else ()


def _remote_paths(system: object, path: str, suffixes: tuple[str, ...]) -> list[str]:
    from fsspec import AbstractFileSystem

    assert isinstance(system, AbstractFileSystem)
    if system.isdir(path):
        root = path.rstrip("/") + "/"
        return [found for found in system.find(path) if _is_wanted(found.removeprefix(root), suffixes)]
    if system.isfile(path):
        return [path]
    return [found for found in system.glob(path) if system.isfile(found)] if glob.has_magic(path) else []


def _remote_file(system: object, path: str, *, name: str) -> File:
    from fsspec import AbstractFileSystem

    assert isinstance(system, AbstractFileSystem)
    return File(
        system.unstrip_protocol(path),
        name,
        partial(_remote_open, system, path),
        partial(_remote_size, system, path),
        partial(_remote_stamp, system, path),
    )


def _remote_open(system: AbstractFileSystem, path: str) -> BinaryIO:
    return buffered(system.open(path, "rb"))  # the files of most systems have no `readline` with a limit


def _remote_size(system: AbstractFileSystem, path: str) -> int | None:
    size: int | None = system.size(path)
    return size


def _remote_stamp(system: AbstractFileSystem, path: str) -> object:
    system.invalidate_cache()
    return system.ukey(path)


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    """In a folder: by suffix, without what is hidden."""
    return name.lower().endswith(suffixes) and not any(part.startswith(".") for part in name.split("/"))


def _not_readable(uri: str) -> InvalidInputError:
    return InvalidInputError(
        "this may not be read",
        field=FIELD,
        value=uri,
        remedy="Give the dataprep worker's user the right to read it.",
        reason="corpus_not_readable",
    )
