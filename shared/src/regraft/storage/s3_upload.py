"""One file of an artifact on its way into a bucket: in one piece, or in parts that need not be sent twice.

An object that is there is never overwritten. It carries the sha256 of its bytes as metadata; one with the same digest
is the file already. One with another digest was left by somebody who had not published it, or belongs to another
attempt: then the file goes under a second key that ends in its digest, where readers look next. So whatever two
attempts do at once, a published manifest keeps the bytes that it names.

A killed upload goes on where it was: its id is kept in a small file on this machine, and parts that have arrived with
the right size and MD5 (their ETag; not so with keys of KMS, where parts are just sent again) are not sent again.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from regraft.errors import InvalidDataError, StorageFailedError
from regraft.storage.manifest import FileEntry
from regraft.storage.s3 import Bucket, Stored

PART_BYTES = 16 << 20
DIGEST = "sha256"
"""Name of the metadata with the digest of an object's bytes."""
_MOST_PARTS = 9_000  # the limit is 10,000
_AT_ONCE = 4
_COPIED_IN_ONE = 5 << 30

Tick = Callable[[int], None]
"""Told of bytes that have arrived; may raise to stop."""


def alternate(key: str, sha256: str) -> str:
    """Where a file is when its own key was taken by other bytes."""
    return f"{key}.{sha256[:16]}"


def is_file(stored: Stored | None, entry: FileEntry) -> bool:
    """Whether an object is this file."""
    return stored is not None and stored.size == entry.bytes and stored.metadata.get(DIGEST) == entry.sha256


class Uploader:
    """Sends files; `notes` is the folder on this machine where uploads under way are remembered."""

    def __init__(self, bucket: Bucket, notes: Path, *, part_bytes: int = PART_BYTES) -> None:
        self._bucket, self._notes, self._part_bytes = bucket, notes, part_bytes

    def send(self, path: Path, key: str, entry: FileEntry, *, tick: Tick = lambda count: None) -> None:
        """Bring a file to its key, or to its second one; nothing is sent if it is there.

        Raises:
            InvalidDataError: the file's bytes are not those of the manifest; nothing of it stays.
            StorageFailedError: the store cannot be used.
        """
        for target in (key, alternate(key, entry.sha256)):
            found = self._bucket.head(target)
            if found is None:
                if self._create(path, target, entry, tick):
                    return
                found = self._bucket.head(target)  # somebody was quicker
            if is_file(found, entry):
                tick(entry.bytes)
                return
        raise StorageFailedError("other bytes are at both keys of this file", value=key)

    def _create(self, path: Path, key: str, entry: FileEntry, tick: Tick) -> bool:
        if entry.bytes > self._part_bytes:
            return self._in_parts(path, key, entry, tick)
        body = path.read_bytes()
        _check(hashlib.sha256(body).hexdigest(), entry, path)
        created = self._bucket.put(key, body, metadata={DIGEST: entry.sha256})
        tick(entry.bytes if created else 0)
        return created

    def _in_parts(self, path: Path, key: str, entry: FileEntry, tick: Tick) -> bool:
        size = max(self._part_bytes, -(-entry.bytes // _MOST_PARTS))
        note = self._notes / f"{hashlib.sha256(f'{key} {entry.sha256} {size}'.encode()).hexdigest()}.json"
        upload_id, there = self._begun(note, key, entry)
        try:
            etags = self._send_parts(path, key, entry, upload_id, there, size, tick)
        except InvalidDataError:
            self._drop(key, upload_id, note)
            raise
        created = self._bucket.complete(key, upload_id, etags)
        if not created:
            self._bucket.abort(key, upload_id)
        note.unlink(missing_ok=True)
        return created

    def _begun(self, note: Path, key: str, entry: FileEntry) -> tuple[str, dict[int, tuple[int, str]]]:
        """The upload of an earlier try and what has arrived of it, or a new one."""
        if note.is_file():
            upload_id = str(json.loads(note.read_text(encoding="utf-8"))["upload_id"])
            there = self._bucket.parts(key, upload_id)
            if there is not None:
                return upload_id, there
        upload_id = self._bucket.begin(key, metadata={DIGEST: entry.sha256})
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(".tmp")
        draft.write_text(json.dumps({"key": key, "upload_id": upload_id}), encoding="utf-8")
        draft.replace(note)
        return upload_id, {}

    def _drop(self, key: str, upload_id: str, note: Path) -> None:
        self._bucket.abort(key, upload_id)
        note.unlink(missing_ok=True)

    def _send_parts(
        self,
        path: Path,
        key: str,
        entry: FileEntry,
        upload_id: str,
        there: dict[int, tuple[int, str]],
        size: int,
        tick: Tick,
    ) -> dict[int, str]:
        """Read once, in order, for the digest of the whole; some parts are on their way at a time."""
        digest, etags, sending = hashlib.sha256(), dict[int, str](), deque[tuple[int, int, Future[str]]]()

        def take() -> None:
            number, count, sent = sending.popleft()
            etags[number] = sent.result()
            tick(count)

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as pool:
            for number, part in enumerate(_parts(path, size), start=1):
                digest.update(part)
                if (etag := _arrived(there.get(number), part)) is not None:
                    etags[number] = etag
                    tick(len(part))
                    continue
                sent = pool.submit(self._bucket.send_part, key, upload_id, number, part)
                sending.append((number, len(part), sent))
                if len(sending) >= _AT_ONCE:
                    take()
            while sending:
                take()
        _check(digest.hexdigest(), entry, path)
        return etags


def _parts(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(size):
            yield part


def _arrived(found: tuple[int, str] | None, part: bytes) -> str | None:
    """The ETag of a part that is there with these bytes."""
    if found is None or found[0] != len(part):
        return None
    same = found[1].strip('"') == hashlib.md5(part, usedforsecurity=False).hexdigest()
    return found[1] if same else None


def _check(found: str, entry: FileEntry, path: Path) -> None:
    if found != entry.sha256:
        raise InvalidDataError(
            "a file has other bytes than its manifest says, and is not uploaded",
            value=str(path),
            remedy="Check the disk and the memory of this machine; what was made of it is made again.",
            reason="corrupt_artifact",
        )


def copy_object(bucket: Bucket, key: str, target: str, *, part_bytes: int = 1 << 30) -> None:
    """A second object like the first, moved by the store itself; a large one in parts."""
    found = bucket.head(key)
    if found is None:
        raise StorageFailedError("an object is gone while it is copied", value=key)
    if found.size <= min(_COPIED_IN_ONE, part_bytes):
        bucket.copy(key, target)
        return
    upload_id = bucket.begin(target, metadata=found.metadata)
    etags = {}
    for number, start in enumerate(range(0, found.size, part_bytes), start=1):
        end = min(start + part_bytes, found.size)
        etags[number] = bucket.copy_part(key, target, upload_id, number, start, end)
    if not bucket.complete(target, upload_id, etags):
        bucket.abort(target, upload_id)
