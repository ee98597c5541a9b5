"""Several machines at one dataset: helpers are separate processes that know nothing but the work folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from celery.contrib.testing.worker import start_worker
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from helpers import eventually
from regraft.ports import NullProgress
from regraft.queue import invite, make_celery, register_assistance
from regraft.settings import Settings
from regraft.specs import PrepareTask
from regraft.storage import local_path, read_manifest
from regraft_dataprep import assist as assisting
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources
from regraft_dataprep.sample import write_trc2_sample
from regraft_dataprep.units import LEAD, SETUP
from regraft_dataprep.work import WorkFolder

PARTS = Resources(processes=1, part_bytes=2000)


class Inviting(NullProgress):
    """Remembers the invitation, and holds the lead up until somebody has helped."""

    def __init__(self, helpers: int) -> None:
        self.where: str | None = None
        self.helpers = [self._helper() for _ in range(helpers)]

    def _helper(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "regraft_dataprep.stage", "assist"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def invite(self, where: str, *, workers: int) -> None:
        assert workers > 1
        self.where = where
        for helper in self.helpers:
            assert helper.stdin is not None
            helper.stdin.write(where)
            helper.stdin.close()
        if self.helpers:
            eventually(lambda: any(Path(where).glob("gigatoken-*")), seconds=60, what="a unit done by a helper")


def digests(uri: str) -> list[tuple[str, str]]:
    manifest = read_manifest(local_path(uri))
    assert manifest is not None
    return [(entry.path, entry.sha256) for entry in manifest.files]


@pytest.fixture
def task(tmp_path: Path) -> PrepareTask:
    write_trc2_sample(tmp_path / "sample.trc2", stories=200, seed=1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    dataset = {"uri": str(tmp_path / "sample.trc2"), "max_sequence_length": 32}
    return PrepareTask.model_validate(
        {"dataset": dataset, "tokenizer_uri": str(tmp_path / "tokenizer.json"), "output_uri": str(tmp_path / "alone")}
    )


def test_helpers_make_the_same_dataset_and_leave_when_it_is_done(task: PrepareTask, tmp_path: Path) -> None:
    alone = prepare(task, resources=PARTS)
    progress = Inviting(helpers=2)
    together = prepare(task.model_copy(update={"output_uri": str(tmp_path / "together")}), progress, resources=PARTS)
    assert digests(together.uri) == digests(alone.uri)
    assert [helper.wait(30) for helper in progress.helpers] == [0, 0]
    assert not list((tmp_path / "together").glob(".work-*"))


def test_a_helper_leaves_when_the_lead_is_gone(task: PrepareTask, tmp_path: Path) -> None:
    progress = Inviting(helpers=0)
    progress.should_stop = lambda: progress.where is not None  # type: ignore[method-assign]
    with pytest.raises(Exception, match="asked to stop"):
        prepare(task, progress, resources=PARTS)
    assert progress.where is not None
    work = WorkFolder(Path(progress.where))
    assert work.is_done(SETUP)
    assert assisting.assist(work.path, PARTS) == 0  # nobody leads
    assert work.claim(LEAD)
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(assisting.assist(work.path, PARTS)))
    thread.start()
    eventually(lambda: any(work.path.glob("gigatoken-*")), seconds=30, what="a unit of the helper")
    work.release(LEAD)
    thread.join(30)
    assert done
    assert done[0] > 0


def test_an_invitation_that_comes_too_late_is_nothing(tmp_path: Path) -> None:
    assert assisting.assist(tmp_path / "gone") == 0
    assert not (tmp_path / "gone").exists()


def test_an_invitation_travels_by_celery_and_a_missing_broker_is_no_fault(settings: Settings) -> None:
    app = make_celery(settings, queues=["assist-test"])
    heard: list[str] = []

    def assist(where: str) -> None:
        heard.append(where)

    register_assistance(app, assist)
    invite(app, queue="assist-test", where="/somewhere", workers=2)
    with start_worker(app, pool="solo", loglevel="warning", perform_ping_check=False, shutdown_timeout=10):
        eventually(lambda: len(heard) == 2, seconds=20, what="two invitations")
    assert heard == ["/somewhere", "/somewhere"]
    gone = make_celery(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    invite(gone, queue="assist-test", where="/somewhere", workers=1)
