"""Published artifacts as the API serves them: from a folder that it mounts, or out of the bucket, streamed."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse

from regraft.errors import InvalidDataError
from regraft.settings import Settings
from regraft.storage import FileEntry, Manifest, is_remote, local_path, read_manifest, to_uri
from regraft.storage.depot import Depot
from regraft_api.ranges import byte_range, nothing_there

BYTES = "application/octet-stream"


class Artifacts:
    """Reads by the URI that was reported; which kind it is says the URI."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.storage_root
        self._may_be_missing = not settings.storage_uri
        self._depot = Depot(self._root, notes=settings.cache_folder / ".uploads") if is_remote(self._root) else None

    def look(self) -> None:
        """Nothing, if the storage answers; of a folder that no artifact has made yet the one above it must be there,
        unless it is the default, all of which is made when it is needed.

        Raises:
            OSError: the folder cannot be read.
            StorageFailedError: nor can the bucket.
        """
        if self._depot is not None:
            self._depot.bucket.look()
            return
        folder = local_path(self._root)
        if not folder.exists():
            if self._may_be_missing:
                return
            folder = folder.parent
        with os.scandir(folder) as entries:
            next(entries, None)

    def manifest(self, uri: str) -> Manifest | None:
        """What an artifact consists of; None: it cannot be reached from here."""
        if not is_remote(uri):
            return read_manifest(local_path(uri))
        kept = self._depot.kept(uri) if self._depot is not None else None
        return None if kept is None else kept.manifest

    def response(
        self, uri: str, entry: FileEntry, *, headers: Mapping[str, str], asked: str | None, if_range: str | None
    ) -> Response | None:
        """A file, or the part of it that `Range` and `If-Range` ask for; None: it is not there."""
        if is_remote(uri):
            stays = if_range is None or if_range == headers["ETag"]
            return self._streamed(uri, entry, headers=headers, asked=asked if stays else None)
        path = local_path(uri) / entry.path
        if not path.is_file():
            return None
        return FileResponse(path, filename=path.name, media_type=BYTES, headers=headers)

    def promote(self, uri: str, name: str) -> str:
        """Give an artifact a second life under `promoted/<name>`; returns its URI. The bytes are there once on a disk,
        and twice in a bucket."""
        target = f"{self._root.rstrip('/')}/promoted/{name}"
        if is_remote(uri):
            assert self._depot is not None, "its manifest was read"
            self._depot.copy(uri, target)
            return target
        _link(local_path(uri), local_path(target))
        return to_uri(local_path(target))

    def _streamed(
        self, uri: str, entry: FileEntry, *, headers: Mapping[str, str], asked: str | None
    ) -> Response | None:
        start, end = byte_range(asked, entry.bytes)
        if start >= end and asked is not None:
            return nothing_there(entry.bytes, "file")
        assert self._depot is not None, "its manifest was read"
        chunks = self._depot.read(uri, entry, start=start, end=end)
        try:
            first = next(chunks, b"")  # what is missing is met before the answer has begun
        except InvalidDataError:
            return None
        name = quote(PurePosixPath(entry.path).name)
        told = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(end - start)}
        told["Content-Disposition"] = f"attachment; filename*=utf-8''{name}"
        status = 200
        if (start, end) != (0, entry.bytes):
            status, told["Content-Range"] = 206, f"bytes {start}-{end - 1}/{entry.bytes}"
        return StreamingResponse(itertools.chain([first], chunks), status, told, BYTES)


def _link(source: Path, target: Path) -> None:
    """The folder under a second name, all or nothing; the files themselves are there once."""
    if target.exists():
        return
    draft = target.with_name(f".tmp-{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source, draft, copy_function=os.link)
        draft.rename(target)
    except OSError:
        if not target.is_dir():  # else somebody has promoted it at the same time
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
