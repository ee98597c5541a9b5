"""Objects in a bucket of an S3-compatible store: the few calls that artifacts need, by botocore.

Addresses, credentials and the like come from where every S3 client takes them: `AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, the shared configuration files, the roles of a machine or a pod. The store must know conditional
writes (`If-None-Match`, `If-Match`); `regraft doctor` tries whether it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from regraft.errors import InvalidInputError, StorageFailedError

SCHEME = "s3"
CHUNK = 1 << 20
_CONNECTIONS = 32
_TAKEN = (409, 412)  # a condition that did not hold, or another write to the same key at this moment
_LISTED = 1000  # what one call deletes at most


class Stored(NamedTuple):
    """What is known of an object without reading it."""

    size: int
    etag: str
    metadata: Mapping[str, str]


class Unfinished(NamedTuple):
    """A multipart upload that nobody has completed."""

    key: str
    upload_id: str
    begun: datetime


class Bucket:
    """Objects by key. Safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client: Any = None
        self._lock = threading.Lock()

    def look(self) -> None:
        """Nothing, if the bucket is there and may be listed.

        Raises:
            StorageFailedError: it cannot be used.
        """
        with self._told():
            self.client.list_objects_v2(Bucket=self.name, MaxKeys=1)

    def head(self, key: str) -> Stored | None:
        """Size, ETag and metadata; None when there is no such object."""
        found = self._unless_missing(lambda: self.client.head_object(Bucket=self.name, Key=key))
        return None if found is None else _stored(found)

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> tuple[Stored, Iterator[bytes]] | None:
        """The object from byte `start` up to `end` (None: to its end), in chunks as they come; None: there is none."""
        last = "" if end is None else end - 1
        asked = {"Range": f"bytes={start}-{last}"} if start or end is not None else {}
        found = self._unless_missing(lambda: self.client.get_object(Bucket=self.name, Key=key, **asked))
        return None if found is None else (_stored(found), self._chunks(found["Body"]))

    def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], instead_of: str | None = None) -> bool:
        """Write an object that is not there yet, or in the place of the one with the ETag `instead_of`.

        False: there is one, or not that one any more.
        """
        condition = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of}
        put = {"Bucket": self.name, "Key": key, "Body": body, "Metadata": dict(metadata), **condition}
        return self._if_free(lambda: self.client.put_object(**put))

    def copy(self, key: str, target: str) -> None:
        """A second object with the bytes and metadata of one that has at most 5 GiB; the store moves the bytes."""
        source = {"Bucket": self.name, "Key": key}
        with self._told():
            self.client.copy_object(Bucket=self.name, Key=target, CopySource=source)

    def listed(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Every key that begins so, in order, and when its object was written."""
        for page in self._pages("list_objects_v2", Prefix=prefix):
            yield from ((entry["Key"], entry["LastModified"]) for entry in page.get("Contents", ()))

    def folders(self, prefix: str) -> Iterator[str]:
        """What follows `prefix` (which ends in a slash) up to the next slash, once each, in order."""
        for page in self._pages("list_objects_v2", Prefix=prefix, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield str(entry["Prefix"])[len(prefix) :].rstrip("/")

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted."""
        for begin in range(0, len(keys), _LISTED):
            named = [{"Key": key} for key in keys[begin : begin + _LISTED]]
            with self._told():
                answer = self.client.delete_objects(Bucket=self.name, Delete={"Objects": named, "Quiet": True})
            if errors := answer.get("Errors"):
                raise StorageFailedError(f"objects cannot be deleted: {errors[0].get('Message')}", value=self.name)

    def begin(self, key: str, *, metadata: Mapping[str, str]) -> str:
        """Begin a multipart upload; returns its id."""
        with self._told():
            begun = self.client.create_multipart_upload(Bucket=self.name, Key=key, Metadata=dict(metadata))
        return str(begun["UploadId"])

    def parts(self, key: str, upload_id: str) -> dict[int, tuple[int, str]] | None:
        """Number to size and ETag of the parts that have arrived; None: there is no such upload any more."""
        found = self._unless_missing(lambda: list(self._pages("list_parts", Key=key, UploadId=upload_id)))
        if found is None:
            return None
        return {part["PartNumber"]: (part["Size"], part["ETag"]) for page in found for part in page.get("Parts", ())}

    def send_part(self, key: str, upload_id: str, number: int, body: bytes) -> str:
        """Send one part; returns its ETag."""
        place = {"Bucket": self.name, "Key": key, "UploadId": upload_id}
        with self._told():
            return str(self.client.upload_part(**place, PartNumber=number, Body=body)["ETag"])

    def complete(self, key: str, upload_id: str, etags: Mapping[int, str]) -> bool:
        """Make the parts an object, unless there is one of that key: then False, and the parts are left."""
        parts = {"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in sorted(etags.items())]}
        place = {"Bucket": self.name, "Key": key, "UploadId": upload_id, "IfNoneMatch": "*"}
        return self._if_free(lambda: self.client.complete_multipart_upload(**place, MultipartUpload=parts))

    def copy_part(self, key: str, target: str, upload_id: str, number: int, start: int, end: int) -> str:
        """Bytes `start` up to `end` of an object as a part of an upload; returns its ETag."""
        source = {"CopySource": {"Bucket": self.name, "Key": key}, "CopySourceRange": f"bytes={start}-{end - 1}"}
        place = {"Bucket": self.name, "Key": target, "UploadId": upload_id, "PartNumber": number}
        with self._told():
            return str(self.client.upload_part_copy(**place, **source)["CopyPartResult"]["ETag"])

    def abort(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; one that is gone is no error."""
        self._unless_missing(lambda: self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id))

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Uploads under way or left behind."""
        for page in self._pages("list_multipart_uploads", Prefix=prefix):
            for entry in page.get("Uploads", ()):
                yield Unfinished(entry["Key"], entry["UploadId"], entry["Initiated"])

    @property
    def client(self) -> Any:
        """botocore's client, made when it is first needed: a process may have a bucket and not use it."""
        with self._lock:
            if self._client is None:
                self._client = _client()
            return self._client

    def _pages(self, call: str, **arguments: object) -> Iterator[dict[str, Any]]:
        with self._told():
            yield from self.client.get_paginator(call).paginate(Bucket=self.name, **arguments)

    def _chunks(self, body: Any) -> Iterator[bytes]:
        with self._told():
            try:
                yield from body.iter_chunks(CHUNK)
            finally:
                body.close()

    def _unless_missing(self, call: Callable[[], Any]) -> Any:
        try:
            with self._told():
                return call()
        except _RefusedError as error:
            if error.status == 404 and error.code != "NoSuchBucket":
                return None
            raise

    def _if_free(self, call: Callable[[], object]) -> bool:
        try:
            with self._told():
                call()
        except _RefusedError as error:
            if error.status in _TAKEN:
                return False
            raise
        return True

    @contextmanager
    def _told(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise _RefusedError(self.name, error.response) from error
        except BotoCoreError as error:
            raise StorageFailedError(
                f"the S3 store cannot be used: {error}",
                field="REGRAFT_STORAGE_URI",
                value=f"{SCHEME}://{self.name}",
                remedy="Check AWS_ENDPOINT_URL, the region and the credentials in this process's environment.",
            ) from error


class _RefusedError(StorageFailedError):
    """An answer that says no."""

    def __init__(self, bucket: str, answer: Mapping[str, Any]) -> None:
        error = answer.get("Error", {})
        self.status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        self.code = str(error.get("Code", ""))
        said = error.get("Message") or self.code or f"status {self.status}"
        super().__init__(
            f"the S3 store refuses: {said}",
            field="REGRAFT_STORAGE_URI",
            value=f"{SCHEME}://{bucket}",
            remedy="Check that the bucket exists and that the credentials may list, read, write and delete in it.",
        )


def _stored(answer: Mapping[str, Any]) -> Stored:
    return Stored(int(answer["ContentLength"]), str(answer["ETag"]), dict(answer.get("Metadata", {})))


def _client() -> Any:
    try:
        from botocore.config import Config
        from botocore.session import get_session
    except ImportError as error:
        raise InvalidInputError(
            "storage on S3 needs the package botocore",
            field="REGRAFT_STORAGE_URI",
            remedy="Install regraft[s3] where this process runs.",
            reason="unsupported_scheme",
        ) from error
    config = Config(max_pool_connections=_CONNECTIONS, connect_timeout=10, read_timeout=60)
    return get_session().create_client("s3", config=config)
