"""Artifacts in a bucket: the same layout as in a folder, `<root>/<artifact>/<files>` and its `manifest.json` last.

An artifact exists when its manifest is there; the files are sent before it, and are never overwritten (see
`s3_upload`). Who publishes first wins: the manifest is written on the condition that there is none. What belongs to a
job names the attempt (`epoch`) that published it, and is replaced only by a later attempt, on the condition that it is
still the one that was seen. The trade-off: an artifact is made on a disk first and then sent, so it takes its size
there as well; nothing is streamed straight into the bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from regraft.errors import FencedError, InvalidDataError, InvalidInputError, NotFoundError, StorageFailedError
from regraft.storage.manifest import NAME, FileEntry, Manifest, parse_manifest
from regraft.storage.s3 import SCHEME, Bucket
from regraft.storage.s3_upload import PART_BYTES, Tick, Uploader, alternate, copy_object, is_file

EPOCH = "epoch"
_AT_ONCE = 8
_TRIES = 5
_POLL_SECONDS = 1.0


class Kept(NamedTuple):
    """A manifest in the bucket."""

    manifest: Manifest
    raw: bytes
    etag: str
    epoch: int


class Depot:
    """Artifacts under one `s3://bucket/prefix`. Safe to use from several threads.

    `notes`: folder on this machine for what is remembered of uploads under way.
    """

    def __init__(self, root: str, *, notes: Path, part_bytes: int = PART_BYTES) -> None:
        self.root = root.rstrip("/")
        parts = urlsplit(self.root)
        if parts.scheme != SCHEME or not parts.netloc:
            raise InvalidInputError(
                "this is no address of a bucket", field="REGRAFT_STORAGE_URI", value=root, remedy="s3://bucket/prefix"
            )
        self.bucket = Bucket(parts.netloc)
        self._part_bytes = part_bytes
        self._uploader = Uploader(self.bucket, notes, part_bytes=part_bytes)

    def key(self, uri: str, path: str = "") -> str:
        """The key of a file of the artifact at `uri`."""
        parts = urlsplit(uri)
        if parts.scheme != SCHEME or parts.netloc != self.bucket.name:
            raise InvalidInputError("this is not in the bucket of this deployment", field="uri", value=uri)
        return "/".join(part for part in (parts.path.strip("/"), path) if part)

    def kept(self, uri: str) -> Kept | None:
        """The manifest of an artifact; None: there is no such artifact.

        Raises:
            InvalidDataError: there is one that cannot be understood.
        """
        found = self.bucket.get(self.key(uri, NAME))
        if found is None:
            return None
        stored, chunks = found
        raw = b"".join(chunks)
        epoch = stored.metadata.get(EPOCH, "0")
        return Kept(parse_manifest(raw, where=f"{uri}/{NAME}"), raw, stored.etag, int(epoch))

    def artifacts(self, uri: str) -> list[str]:
        """Names of the artifacts right under `uri`, sorted."""
        names = self.bucket.folders(self.key(uri) + "/")
        return sorted(name for name in names if self.bucket.head(self.key(f"{uri}/{name}", NAME)) is not None)

    def is_whole(self, uri: str, manifest: Manifest) -> bool:
        """Whether every file of an artifact is there, by size and digest; the bytes are not read."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return all(pool.map(lambda entry: self._place(uri, entry) is not None, manifest.files))

    def publish(self, folder: Path, uri: str, *, epoch: int | None = None, tick: Tick = lambda count: None) -> None:
        """Send a published folder, manifest last. What is there already is not sent again.

        `epoch`: the attempt that owns it; None: it is named by its content, and the first to publish it has done it.

        Raises:
            FencedError: a later attempt has published it.
            InvalidDataError: a file has other bytes than the manifest says; nothing is published.
            StorageFailedError: the store cannot be used.
        """
        raw = (folder / NAME).read_bytes()
        manifest = parse_manifest(raw, where=str(folder / NAME))
        sent = False
        for _ in range(_TRIES):
            there = self.kept(uri)
            if there is not None and self._is_done(uri, there, raw, epoch):
                if sent:  # somebody was quicker
                    self._drop_files(uri, manifest, but=there.manifest)
                return
            self._send(folder, uri, manifest, tick)
            sent = True
            if self._put_manifest(uri, raw, epoch, there):
                if there is not None:
                    self._drop_files(uri, there.manifest, but=manifest)
                return
        raise StorageFailedError("others keep publishing the same artifact", value=uri)

    def _is_done(self, uri: str, there: Kept, raw: bytes, epoch: int | None) -> bool:
        if there.raw == raw:
            return True
        if epoch is None:
            return self.is_whole(uri, there.manifest)
        if there.epoch > epoch:
            raise FencedError("a later attempt has published this", value=uri)
        return False

    def _send(self, folder: Path, uri: str, manifest: Manifest, tick: Tick) -> None:
        large = [entry for entry in manifest.files if entry.bytes > self._part_bytes]
        small = [entry for entry in manifest.files if entry.bytes <= self._part_bytes]
        for entry in large:  # these have several parts on their way at a time
            self._uploader.send(folder / entry.path, self.key(uri, entry.path), entry, tick=tick)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as pool:
            send = self._uploader.send
            jobs = [pool.submit(send, folder / entry.path, self.key(uri, entry.path), entry) for entry in small]
            _collect(jobs, tick)

    def _put_manifest(self, uri: str, raw: bytes, epoch: int | None, there: Kept | None) -> bool:
        instead_of = None if there is None else there.etag
        metadata = {EPOCH: str(epoch or 0)}
        return self.bucket.put(self.key(uri, NAME), raw, metadata=metadata, instead_of=instead_of)

    def _drop_files(self, uri: str, before: Manifest, *, but: Manifest) -> None:
        """Files that only `before` names: a part that was given up, or those of an attempt that came to nothing."""
        stay = {(entry.path, entry.sha256) for entry in but.files}
        gone = [entry for entry in before.files if (entry.path, entry.sha256) not in stay]
        places = [self._place(uri, entry) for entry in gone]
        self.bucket.delete([place for place in places if place is not None])

    def fetch(self, uri: str, folder: Path, *, tick: Tick = lambda count: None) -> Kept:
        """Bring an artifact to the empty folder `folder`, manifest last; files that are there already are kept.

        Raises:
            NotFoundError: there is no such artifact.
            InvalidDataError: a file is missing or has other bytes than the manifest says.
        """
        kept = self.kept(uri)
        if kept is None:
            raise NotFoundError("there is no artifact at this address", field="uri", value=uri)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
            fetch = partial(self.fetch_file, uri, folder)
            jobs = [pool.submit(fetch, entry) for entry in kept.manifest.files]
            _collect(jobs, tick)
        (folder / NAME).write_bytes(kept.raw)
        return kept

    def fetch_file(self, uri: str, folder: Path, entry: FileEntry) -> None:
        """Bring one file of an artifact; one that is there already is kept.

        Raises:
            InvalidDataError: it is missing or has other bytes than the manifest says.
        """
        path = folder / entry.path
        if path.is_file():  # it was checked before it got this name
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        digest = hashlib.sha256()
        with part.open("wb") as file:
            for chunk in self.read(uri, entry):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise _damaged(f"{uri}/{entry.path}", "has other bytes than were published")
        part.rename(path)

    def read(self, uri: str, entry: FileEntry, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes of a file from `start` up to `end`, as they come; a connection that breaks is made again.

        Raises:
            InvalidDataError: the file is missing, or its object is another.
        """
        at, last = start, entry.bytes if end is None else min(end, entry.bytes)
        key = self.key(uri, entry.path)
        for tries_left in reversed(range(_TRIES)):
            if at >= last:
                return
            found = self._open(key, entry, at, last)
            if found is None:
                raise _damaged(f"{uri}/{entry.path}", "is missing, or another one")
            try:
                for chunk in found:
                    at += len(chunk)
                    yield chunk
            except StorageFailedError:
                if not tries_left:
                    raise
        if at < last:
            raise StorageFailedError("the store keeps sending less than it said", value=key)

    def _open(self, key: str, entry: FileEntry, start: int, end: int) -> Iterator[bytes] | None:
        for place in (key, alternate(key, entry.sha256)):
            found = self.bucket.get(place, start=start, end=end)
            if found is not None and found[0].metadata.get("sha256") == entry.sha256:
                return found[1]
        return None

    def _place(self, uri: str, entry: FileEntry) -> str | None:
        """The key that holds a file; None: none does."""
        key = self.key(uri, entry.path)
        places = (key, alternate(key, entry.sha256))
        return next((place for place in places if is_file(self.bucket.head(place), entry)), None)

    def copy(self, uri: str, target: str) -> None:
        """A second artifact with the same files, moved by the store; one that is there is kept.

        Raises:
            NotFoundError: there is no artifact at `uri`.
            InvalidDataError: a file of it is missing.
        """
        kept = self.kept(uri)
        if kept is None:
            raise NotFoundError("there is no artifact at this address", field="uri", value=uri)
        for entry in kept.manifest.files:
            place = self._place(uri, entry)
            if place is None:
                raise _damaged(f"{uri}/{entry.path}", "is missing, or another one")
            copy_object(self.bucket, place, self.key(target, entry.path))
        self.bucket.put(self.key(target, NAME), kept.raw, metadata={EPOCH: "0"})

    def delete(self, uri: str) -> None:
        """Delete an artifact, its manifest first: without it the rest is none, however far this gets."""
        self.bucket.delete([self.key(uri, NAME)])
        self.bucket.delete([key for key, _ in self.bucket.listed(self.key(uri) + "/")])

    def remove_unfinished(self, *, older_than: timedelta) -> int:
        """Delete what was begun so long ago and never published; returns how many uploads and objects that were.

        Multipart uploads that nobody completed, and objects that belong to no artifact. What is that old and still on
        its way would have to be sent again.
        """
        before = datetime.now(UTC) - older_than
        uploads = [upload for upload in self.bucket.unfinished(self._prefix) if upload.begun <= before]
        for upload in uploads:
            self.bucket.abort(upload.key, upload.upload_id)
        listed = list(self.bucket.listed(self._prefix))
        published = {key.removesuffix(f"/{NAME}") for key, _ in listed if key.endswith(f"/{NAME}")}
        left = [key for key, written in listed if written <= before and not _ancestors(key) & published]
        self.bucket.delete(left)
        return len(uploads) + len(left)

    @property
    def _prefix(self) -> str:
        name = self.key(self.root)
        return f"{name}/" if name else ""


def _ancestors(key: str) -> set[str]:
    parts = key.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def _collect(jobs: list[Future[None]], tick: Tick) -> None:
    """Wait for all, asking now and then whether to go on; after the first failure nothing more is begun."""
    try:
        for job in jobs:
            while not wait([job], timeout=_POLL_SECONDS).done:
                tick(0)
            job.result()
            tick(0)
    except BaseException:
        for job in jobs:
            job.cancel()
        raise


def _damaged(place: str, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"a published file {what}",
        value=place,
        remedy="Delete the artifact; it will be made again.",
        reason="corrupt_artifact",
    )
