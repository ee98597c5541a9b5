"""Artifacts of a bucket on a machine's disk, and stages that notice nothing of it. Against a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regraft.cli import make_app
from regraft.doctor import _storage
from regraft.errors import InvalidInputError, StorageFailedError
from regraft.mirrored import MirroredProgress, mirror_environment, mirror_of, through
from regraft.ports import Level, NullProgress, Progress
from regraft.settings import Settings
from regraft.specs import PrepareResult, Spec
from regraft.storage import Mirror, is_published, local_path, publish, to_uri
from regraft.storage.manifest import NAME, read_manifest, rewrite_manifest
from regraft.storage.s3 import Bucket
from regraft_worker.trainer.folders import OPTIMIZER, STATE, step_folder, steps_in
from regraft_worker.trainer.restoring import restore
from s3_server import exported, s3_server


@pytest.fixture(scope="module", autouse=True)
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("s3"), bucket="artifacts") as environment, exported(environment):
        yield


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"s3://artifacts/{tmp_path.name}"


@pytest.fixture
def mirror(root: str, tmp_path: Path) -> Iterator[Mirror]:
    mirror = Mirror(root, tmp_path / "here", epoch=1)
    yield mirror
    mirror.release()


@pytest.fixture
def elsewhere(root: str, tmp_path: Path) -> Mirror:
    """Another machine of the same deployment."""
    return Mirror(root, tmp_path / "elsewhere", epoch=2)


class Recorder(NullProgress):
    def __init__(self) -> None:
        self.artifacts: list[tuple[str, str]] = []
        self.events: list[tuple[Level, str]] = []

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        self.artifacts.append((kind, uri))

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        self.events.append((level, message))


def make(folder: Path, content: str = "text") -> Path:
    with publish(folder, kind="dataset") as draft:
        (draft.folder / "file").write_text(content)
    return folder


def checkpoint(run: Path, step: int, *, best: int | None = None) -> Path:
    with publish(step_folder(run, step), kind="checkpoint") as draft:
        (draft.folder / "training_state").mkdir()
        (draft.folder / "model.safetensors").write_text(f"weights {step}")
        (draft.folder / OPTIMIZER).write_text(f"moments {step}")
        state = {"step": step, "best": None if best is None else {"step": best}}
        (draft.folder / STATE).write_text(json.dumps(state))
    return step_folder(run, step)


def test_a_stage_reads_and_writes_folders_and_says_addresses(root: str, mirror: Mirror, tmp_path: Path) -> None:
    given = make(mirror.folder / "datasets" / "given", "what the stage reads")
    mirror.publish(given)
    shutil.rmtree(mirror.folder)
    seen: dict[str, Any] = {}

    def stage(task: str, progress: Progress) -> Spec:
        seen.update(json.loads(task))
        made = make(
            local_path(seen["output_uri"]) / "made", (local_path(seen["inputs"][0]["uri"]) / "file").read_text()
        )
        progress.artifact("dataset", to_uri(made), {"uri": to_uri(made)})
        numbers = dict.fromkeys(("documents", "train_examples", "eval_examples", "train_tokens", "eval_tokens"), 1)
        return PrepareResult(
            uri=to_uri(made), address="made", cached=False, max_sequence_length=1, max_token_id=1, **numbers
        )

    task = {"inputs": [{"uri": f"{root}/datasets/given"}], "output_uri": f"{root}/datasets", "other": "s3://else/x"}
    environment = mirror_environment(root, mirror.folder, most_bytes=0, epoch=1)
    reports = Recorder()
    result = through(stage, environment)(json.dumps(task), reports)
    assert seen["other"] == "s3://else/x"
    assert isinstance(result, PrepareResult)
    assert result.uri == f"{root}/datasets/made"
    assert reports.artifacts == [("dataset", f"{root}/datasets/made")]
    assert b"".join(mirror.depot.read(result.uri, mirror.depot.kept(result.uri).manifest.files[0])) == (  # type: ignore[union-attr]
        b"what the stage reads"
    )
    assert through(stage, {**environment, "REGRAFT_STORAGE_URI": tmp_path.as_uri()}) is stage
    assert mirror_of({}) is None


def test_an_artifact_made_elsewhere_is_known_by_what_tells_of_it_alone(mirror: Mirror, elsewhere: Mirror) -> None:
    with publish(elsewhere.folder / "datasets" / "one", kind="dataset") as draft:
        for name in ("file", "train/data_params.json", "corpus_report.json"):
            (draft.folder / name).parent.mkdir(exist_ok=True)
            (draft.folder / name).write_text("text")
    elsewhere.publish(elsewhere.folder / "datasets" / "one")
    here = mirror.folder / "datasets" / "one"
    progress = MirroredProgress(NullProgress(), mirror)
    assert progress.is_kept(here)
    assert {path.name for path in here.iterdir()} == {NAME, "corpus_report.json"}
    (here / "corpus_report.json").write_text("of another one")
    assert progress.is_kept(here)
    assert (here / "corpus_report.json").read_text() == "text"
    progress.artifact("dataset", to_uri(here), {})  # said again, though only these are here
    assert mirror.fetch(mirror.uri(here))
    assert is_published(here)
    elsewhere.depot.bucket.delete([elsewhere.depot.key(mirror.uri(here), "file")])
    assert not progress.is_kept(here), "a file of it is gone from the bucket"
    assert not progress.is_kept(mirror.folder / "datasets" / "none")


def test_a_run_goes_on_on_another_machine_and_its_retention_knows_every_checkpoint(
    mirror: Mirror, elsewhere: Mirror
) -> None:
    run = elsewhere.folder / "jobs" / "j" / "train"
    for step in (10, 20, 30, 40):
        elsewhere.publish(checkpoint(run, step, best=20))
    uri = elsewhere.uri(run)
    weights = elsewhere.depot.key(f"{uri}/step-00000040", "model.safetensors")
    stored = elsewhere.depot.bucket.head(weights)
    assert stored is not None
    changed = {"metadata": stored.metadata, "instead_of": stored.etag}
    assert elsewhere.depot.bucket.put(weights, b"weights 4x", **changed)  # the newest one is damaged
    here = mirror.folder / "jobs" / "j" / "train"
    checkpoint(here, 25)  # left by an attempt of long ago that never sent it

    reports = Recorder()
    restore(here, mirror, reports)
    assert [message for _, message in reports.events if "step-00000040 is skipped" in message]
    assert {step for step, _ in steps_in(here)} == {10, 20, 30, 40}
    assert [step for step, folder in sorted(steps_in(here)) if is_published(folder)] == [20, 30]
    restore(mirror.folder / "jobs" / "new" / "train", mirror, reports)
    assert not (mirror.folder / "jobs" / "new" / "train").exists()


def test_checkpoints_are_sent_while_training_goes_on_and_in_order(mirror: Mirror, elsewhere: Mirror) -> None:
    run = mirror.folder / "jobs" / "j" / "train"
    reports, free = Recorder(), threading.Event()
    really = mirror.depot.publish

    def slow(*arguments: Any, **options: Any) -> None:
        assert free.wait(20)
        really(*arguments, **options)

    mirror.depot.publish = slow  # type: ignore[method-assign]
    with MirroredProgress(reports, mirror) as progress:
        for step in (10, 20):
            progress.artifact("checkpoint", to_uri(checkpoint(run, step)), {})
        shutil.rmtree(step_folder(run, 10))  # retention does not wait either
        progress.artifact("pruned", to_uri(step_folder(run, 10)), {})
        assert reports.artifacts == []
        free.set()
    uri = mirror.uri(run)
    kinds = [("checkpoint", 10), ("checkpoint", 20), ("pruned", 10)]
    assert reports.artifacts == [(kind, f"{uri}/step-{step:08d}") for kind, step in kinds]
    assert mirror.depot.artifacts(uri) == ["step-00000020"]
    assert not list(run.glob(".send-*"))


def test_a_checkpoint_that_gave_up_its_moments_gives_them_up_in_the_bucket(mirror: Mirror) -> None:
    run = mirror.folder / "jobs" / "j" / "train"
    with MirroredProgress(NullProgress(), mirror) as progress:
        first = checkpoint(run, 10)
        progress.artifact("checkpoint", to_uri(first), {})
        progress._wait(most=0)
        manifest = read_manifest(first)
        assert manifest is not None
        fewer = tuple(entry for entry in manifest.files if entry.path != OPTIMIZER)
        rewrite_manifest(first, manifest.model_copy(update={"files": fewer}))
        (first / OPTIMIZER).unlink()
        progress.artifact("checkpoint", to_uri(checkpoint(run, 20)), {})
    assert mirror.depot.bucket.head(mirror.depot.key(mirror.uri(first), OPTIMIZER)) is None
    assert mirror.fetch(mirror.uri(first))


def test_a_checkpoint_that_cannot_be_sent_stops_nothing_but_the_last_must_arrive(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, reports = mirror.folder / "jobs" / "j" / "train", Recorder()
    really = mirror.depot.publish
    broken = {step_folder(run, 10).name, step_folder(run, 30).name}

    def failing(folder: Path, uri: str, **options: Any) -> None:
        if uri.rpartition("/")[2] in broken:
            raise StorageFailedError("the cable is out")
        really(folder, uri, **options)

    monkeypatch.setattr(mirror.depot, "publish", failing)
    with MirroredProgress(reports, mirror) as progress:
        for step in (10, 20):
            progress.artifact("checkpoint", to_uri(checkpoint(run, step)), {})
    assert [(level, "the cable is out" in message) for level, message in reports.events] == [("error", True)]
    assert [uri.rpartition("/")[2] for _, uri in reports.artifacts] == ["step-00000020"]
    with (
        pytest.raises(StorageFailedError, match="the newest checkpoint could not be sent"),
        MirroredProgress(reports, mirror) as progress,
    ):
        progress.artifact("checkpoint", to_uri(checkpoint(run, 30)), {})


def test_copies_that_nobody_uses_make_room_the_longest_unused_first(mirror: Mirror, elsewhere: Mirror) -> None:
    for number, name in enumerate(("old", "used", "new", "unsent")):
        folder = make(mirror.folder / "datasets" / name, "x" * 1000)
        os.utime(folder / NAME, (number, number))
        if name != "unsent":
            mirror.publish(folder)
    other = Mirror(mirror.depot.root, mirror.folder)  # of another process
    mirror.use(mirror.folder / "datasets" / "used")
    assert other.make_room(3500) == 1000
    assert other.make_room(0) == 1000
    assert sorted(path.name for path in (mirror.folder / "datasets").iterdir()) == ["unsent", "used"]


def test_an_address_that_leads_out_of_the_folder_is_refused(mirror: Mirror) -> None:
    for name in ("../x", "datasets/../../x", "datasets//x", "."):
        with pytest.raises(InvalidInputError, match="names no artifact"):
            mirror.localised({"uri": f"{mirror.depot.root}/{name}"})


def test_the_doctor_tries_what_the_bucket_must_know(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(storage_uri=root, home=tmp_path)
    assert _storage(settings).state == "ok"
    really = Bucket.put

    def careless(self: Bucket, key: str, body: bytes, **_: Any) -> bool:
        """A store that knows no conditions."""
        stored = self.head(key)
        really(self, key, body, metadata={}, instead_of=None if stored is None else stored.etag)
        return True

    monkeypatch.setattr(Bucket, "put", careless)
    finding = _storage(settings)
    assert (finding.state, "overwritten" in finding.message) == ("failed", True)
    assert _storage(settings.model_copy(update={"storage_uri": "s3://no-such-bucket/x"})).state == "failed"


def test_the_command_deletes_what_was_left_behind(root: str, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_STORAGE_URI", root)
    mirror.depot.bucket.put(mirror.depot.key(f"{root}/datasets/x/file"), b"", metadata={})
    for days, count in (("1", 0), ("0", 1)):
        said = CliRunner().invoke(make_app(), ["storage", "clean", "--older-than-days", days])
        assert said.exit_code == 0
        assert said.output.startswith(f"{count} unfinished uploads")
