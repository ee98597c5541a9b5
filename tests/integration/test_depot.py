"""Artifacts in a bucket of a real S3 server (SeaweedFS): whole or not there, whoever is killed or second."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import FencedError, InvalidDataError, InvalidInputError, NotFoundError, StorageFailedError
from regraft.storage import is_published, publish
from regraft.storage.depot import Depot
from regraft.storage.manifest import NAME, read_manifest
from regraft.storage.s3 import Bucket
from s3_server import exported, s3_server

PART = 5 << 20
PUBLISHER = Path(__file__).with_name("s3_publisher.py")


@pytest.fixture(scope="module", autouse=True)
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("s3"), bucket="artifacts") as environment, exported(environment):
        yield


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(f"s3://artifacts/{tmp_path.name}", notes=tmp_path / "notes", part_bytes=PART)


def make(folder: Path, *, seed: int = 1, large: int = 0, **files: bytes) -> Path:
    """A published folder: the named files, some in a folder of their own, and a file of so many bytes that repeat
    nowhere."""
    with publish(folder, kind="checkpoint") as draft:
        (draft.folder / "deep" / "er").mkdir(parents=True)
        (draft.folder / "deep" / "er" / "empty").write_bytes(b"")
        (draft.folder / "deep" / "seed").write_bytes(bytes([seed]) * 1000)
        for name, content in files.items():
            (draft.folder / name).write_bytes(content)
        if large:
            words = (seed * 10**9 + number for number in range(large // 16))
            (draft.folder / "large").write_bytes(b"".join(word.to_bytes(16, "big") for word in words))
        draft.summary = {"seed": seed}
    return folder


def kept_bytes(depot: Depot, uri: str, name: str) -> bytes:
    kept = depot.kept(uri)
    assert kept is not None
    entry = next(entry for entry in kept.manifest.files if entry.path == name)
    return b"".join(depot.read(uri, entry))


def test_an_artifact_comes_back_as_it_was_published(depot: Depot, tmp_path: Path) -> None:
    folder, uri = make(tmp_path / "made", large=12 << 20), f"{depot.root}/jobs/j/train/step-1"
    arrived: list[int] = []
    depot.publish(folder, uri, tick=arrived.append)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert sum(arrived) == 12 << 20  # those in one piece are small, and are not told of
    back = tmp_path / "back"
    back.mkdir()
    depot.fetch(uri, back)
    assert is_published(back)
    assert (back / NAME).read_bytes() == (folder / NAME).read_bytes()
    assert depot.artifacts(f"{depot.root}/jobs/j/train") == ["step-1"]
    large = (folder / "large").read_bytes()
    entry = next(entry for entry in manifest.files if entry.path == "large")
    for start, end in ((0, 1), (PART - 1, PART + 1), (len(large) - 3, len(large)), (7, 7), (5, 10**9)):
        assert b"".join(depot.read(uri, entry, start=start, end=end)) == large[start:end]


def test_a_killed_upload_goes_on_where_it_was(depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, uri = make(tmp_path / "made", large=40 << 20), f"{depot.root}/datasets/one"
    key = depot.key(uri, "large")
    arguments = [depot.root, str(folder), uri, str(tmp_path / "notes"), str(PART)]
    command = [sys.executable, str(PUBLISHER), *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    assert int(child.stdout.readline()) == PART  # it waits for us now, in the middle of the file
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert depot.kept(uri) is None  # the manifest comes last: nothing was published
    (upload,) = depot.bucket.unfinished(key)
    there = depot.bucket.parts(key, upload.upload_id) or {}
    assert 1 <= len(there) < 8

    sent: list[int] = []
    really = depot.bucket.send_part

    def counted(key: str, upload_id: str, number: int, body: bytes) -> str:
        sent.append(number)
        return really(key, upload_id, number, body)

    monkeypatch.setattr(depot.bucket, "send_part", counted)
    depot.publish(folder, uri)
    assert sorted(sent) == sorted(set(range(1, 9)) - set(there))
    assert kept_bytes(depot, uri, "large") == (folder / "large").read_bytes()
    assert not list(depot.bucket.unfinished(key))
    assert not list((tmp_path / "notes").iterdir())


def test_a_part_with_other_bytes_is_sent_again(depot: Depot, tmp_path: Path) -> None:
    """The planted error: what has arrived of an earlier try is not what the file has now."""
    folder, uri = make(tmp_path / "made", large=12 << 20), f"{depot.root}/datasets/one"
    manifest = read_manifest(folder)
    assert manifest is not None
    entry = next(entry for entry in manifest.files if entry.path == "large")
    uploader = depot._uploader

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uploader.send(folder / "large", depot.key(uri, "large"), entry, tick=interrupt)
    (upload,) = depot.bucket.unfinished(depot.key(uri, "large"))
    depot.bucket.send_part(upload.key, upload.upload_id, 1, bytes(PART))
    depot.publish(folder, uri)
    assert kept_bytes(depot, uri, "large") == (folder / "large").read_bytes()


def test_a_file_that_changed_since_it_was_sealed_is_refused(depot: Depot, tmp_path: Path) -> None:
    for name, size in (("small", 0), ("large", 12 << 20)):
        folder, uri = make(tmp_path / name, large=size, small=b"as it was"), f"{depot.root}/{name}"
        with (folder / name).open("r+b") as file:
            file.write(b"no")
        with pytest.raises(InvalidDataError, match="other bytes than its manifest says"):
            depot.publish(folder, uri)
        assert depot.kept(uri) is None
        assert depot.bucket.head(depot.key(uri, name)) is None
        assert not list(depot.bucket.unfinished(depot.key(uri)))


def test_bytes_that_changed_in_the_bucket_are_refused(depot: Depot, tmp_path: Path) -> None:
    folder, uri = make(tmp_path / "made", small=b"as it was"), f"{depot.root}/datasets/one"
    depot.publish(folder, uri)
    key = depot.key(uri, "small")
    stored = depot.bucket.head(key)
    assert stored is not None
    assert depot.bucket.put(key, b"as it is!", metadata=stored.metadata, instead_of=stored.etag)
    back = tmp_path / "back"
    back.mkdir()
    with pytest.raises(InvalidDataError, match="other bytes than were published"):
        depot.fetch(uri, back)
    assert not (back / NAME).exists()
    assert not (back / "small").exists()
    depot.bucket.delete([key])
    with pytest.raises(InvalidDataError, match="is missing"):
        depot.fetch(uri, back)


def test_of_two_that_publish_the_same_name_one_is_whole(depot: Depot, tmp_path: Path) -> None:
    folders = [make(tmp_path / f"made{seed}", seed=seed, large=6 << 20) for seed in (1, 2, 3)]
    for number in range(5):
        uri = f"{depot.root}/datasets/{number}"
        threads = [threading.Thread(target=depot.publish, args=(folder, uri)) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        back = tmp_path / f"back{number}"
        back.mkdir()
        depot.fetch(uri, back)
        assert is_published(back)
        assert (back / NAME).read_bytes() in [(folder / NAME).read_bytes() for folder in folders]
        files = [key for key, _ in depot.bucket.listed(depot.key(uri) + "/") if not key.endswith(NAME)]
        assert len(files) == 3, "what the others had sent is gone"


def test_a_later_attempt_replaces_what_an_earlier_one_published_and_not_the_other_way_round(
    depot: Depot, tmp_path: Path
) -> None:
    early, late = make(tmp_path / "early", seed=1), make(tmp_path / "late", seed=2)
    uri = f"{depot.root}/jobs/j/evaluation"
    depot.publish(early, uri, epoch=1)
    depot.publish(late, uri, epoch=2)
    with pytest.raises(FencedError, match="a later attempt"):
        depot.publish(early, uri, epoch=1)
    assert kept_bytes(depot, uri, "deep/seed") == bytes([2]) * 1000


def test_what_an_earlier_attempt_left_unpublished_is_in_nobodys_way(depot: Depot, tmp_path: Path) -> None:
    early, late = make(tmp_path / "early", seed=1), make(tmp_path / "late", seed=2)
    uri = f"{depot.root}/jobs/j/train/step-1"
    manifest = read_manifest(early)
    assert manifest is not None
    for entry in manifest.files:
        depot._uploader.send(early / entry.path, depot.key(uri, entry.path), entry)
    depot.publish(late, uri, epoch=2)
    depot.publish(late, uri, epoch=2)  # said again after a restart
    assert kept_bytes(depot, uri, "deep/seed") == bytes([2]) * 1000
    with pytest.raises(FencedError):  # it wakes up, and goes on where it was
        depot.publish(early, uri, epoch=1)
    assert kept_bytes(depot, uri, "deep/seed") == bytes([2]) * 1000


def test_a_part_that_is_given_up_is_deleted_in_the_bucket(depot: Depot, tmp_path: Path) -> None:
    folder, uri = make(tmp_path / "made", moments=b"large", weights=b"stay"), f"{depot.root}/jobs/j/train/step-1"
    depot.publish(folder, uri, epoch=1)
    manifest = read_manifest(folder)
    assert manifest is not None
    fewer = manifest.model_copy(update={"files": tuple(e for e in manifest.files if e.path != "moments")})
    (folder / NAME).write_text(fewer.model_dump_json())
    depot.publish(folder, uri, epoch=1)
    assert depot.bucket.head(depot.key(uri, "moments")) is None
    kept = depot.kept(uri)
    assert kept is not None
    assert depot.is_whole(uri, kept.manifest)


def test_copies_and_deletions(depot: Depot, tmp_path: Path) -> None:
    folder, uri = make(tmp_path / "made", large=6 << 20), f"{depot.root}/jobs/j/train/step-1"
    depot.publish(folder, uri)
    copy = f"{depot.root}/promoted/one"
    depot.copy(uri, copy)
    depot.delete(uri)
    assert depot.kept(uri) is None
    assert not list(depot.bucket.listed(depot.key(uri)))
    assert kept_bytes(depot, copy, "large") == (folder / "large").read_bytes()
    with pytest.raises(NotFoundError):
        depot.copy(uri, copy)


def test_what_was_left_behind_is_deleted_when_it_is_old(depot: Depot, tmp_path: Path) -> None:
    folder = make(tmp_path / "made", large=6 << 20)
    depot.publish(folder, f"{depot.root}/datasets/one")
    upload = depot.bucket.begin(depot.key(f"{depot.root}/left"), metadata={})
    depot.bucket.put(depot.key(f"{depot.root}/jobs/j/train/step-1/model"), b"no manifest", metadata={})
    assert depot.remove_unfinished(older_than=timedelta(days=1)) == 0
    assert depot.remove_unfinished(older_than=timedelta()) == 2
    assert depot.bucket.parts(depot.key(f"{depot.root}/left"), upload) is None
    assert not list(depot.bucket.listed(depot.key(f"{depot.root}/jobs")))
    kept = depot.kept(f"{depot.root}/datasets/one")
    assert kept is not None
    assert depot.is_whole(f"{depot.root}/datasets/one", kept.manifest)


def test_what_cannot_be_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error_of(root: str) -> Any:
        depot = Depot(root, notes=tmp_path)
        with pytest.raises(StorageFailedError) as caught:
            depot.kept(f"{root}/datasets/one")
        return caught.value

    with pytest.raises(InvalidInputError, match="no address of a bucket"):
        Depot("s3:///nowhere", notes=tmp_path)
    assert "refuses" in str(error_of("s3://no-such-bucket/x"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = error_of("s3://artifacts/x")
    assert (refused.field, refused.value) == ("REGRAFT_STORAGE_URI", "s3://artifacts")
    assert "credentials" in refused.remedy
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "cannot be used" in str(error_of("s3://artifacts/x"))


def test_a_look_tells_a_bucket_from_none(depot: Depot) -> None:
    depot.bucket.look()
    with pytest.raises(StorageFailedError, match="refuses"):
        Bucket("no-such-bucket").look()
