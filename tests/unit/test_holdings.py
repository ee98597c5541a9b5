"""Notes of attempts: who counts as gone, and whose notes are left alone. With real processes and the kernel's locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import eventually
from regraft import holdings
from regraft.holdings import Holding, held, take_over
from regraft.jobstore import make_engine
from regraft.jobstore.losses import Losses
from regraft.processes import is_gone, kill_of
from regraft.settings import Settings
from regraft.takeover import Successor

ONE = Holding("job-1.train", 3, "worker@here-7")
WORKER = """
import subprocess, sys
from pathlib import Path
from regraft.holdings import Holding, held
with held(Path(sys.argv[1]), Holding("job-1.train", 3, "worker@here-7")) as inherited:
    child = subprocess.Popen(["sleep", "600"], pass_fds=inherited)
    print(child.pid, flush=True)
    child.wait()
"""


def abandoned(home: Path) -> list[Holding]:
    """Those that would be given back now; their notes stay."""
    found: list[Holding] = []
    take_over(home, lambda holding: found.append(holding) or False)  # type: ignore[func-returns-value]
    return found


def notes(home: Path) -> list[Path]:
    return list((home / holdings.FOLDER).iterdir())


def test_it_is_abandoned_only_when_worker_and_process_are_both_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        assert abandoned(tmp_path) == []
        worker.send_signal(signal.SIGSTOP)
        assert abandoned(tmp_path) == []
        worker.kill()
        worker.wait()
    assert abandoned(tmp_path) == []  # the process that it had started might still write
    os.kill(child, signal.SIGKILL)
    eventually(lambda: is_gone(child), what="the child's death")
    assert abandoned(tmp_path) == [ONE]
    take_over(tmp_path, lambda holding: holding == ONE)
    assert notes(tmp_path) == []


def test_processes_of_an_attempt_are_found_wherever_they_went_and_no_others(tmp_path: Path) -> None:
    """A launcher's children have sessions of their own, and neither the note's lock nor a parent."""
    home = f"REGRAFT_HOME={tmp_path}"

    def marked(attempt: str) -> subprocess.Popen[bytes]:
        given = {"REGRAFT_ATTEMPT": attempt, "REGRAFT_HOME": str(tmp_path)}
        return subprocess.Popen(["/bin/sleep", "600"], env=given, start_new_session=True)

    with marked("job-1.train:3:7:99") as one, marked("job-1.train:30:7:99") as other:
        prefix = "REGRAFT_ATTEMPT=job-1.train:3:"
        assert kill_of(prefix, mark=f"{home}-2") == 0
        eventually(lambda: kill_of(prefix, mark=home), what="its environment being there")
        assert one.wait() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_an_attempt_that_ends_leaves_no_note(tmp_path: Path) -> None:
    with held(tmp_path, ONE) as inherited:
        assert len(inherited) == 1
        assert len(notes(tmp_path)) == 1
        with held(tmp_path, ONE) as second:
            assert second == ()  # locked: by whom it is held is settled elsewhere
    assert notes(tmp_path) == []


@pytest.mark.parametrize("other", ["boot", "processes", "host"])
def test_notes_of_other_machines_and_containers_are_left_alone(tmp_path: Path, other: str) -> None:
    place = holdings._place() | ({"boot": "another"} if other == "host" else {}) | {other: "another"}
    note = tmp_path / holdings.FOLDER / "job-1.train-3"
    note.parent.mkdir()
    note.write_text(json.dumps({"holding": {"stage_id": "job-1.train", "epoch": 3, "worker": "w"}, "place": place}))
    assert abandoned(tmp_path) == []
    # After a reboot the note says nothing that the lease does not; on another machine it is not ours to delete.
    assert note.exists() == (other != "boot")


@pytest.mark.parametrize("other", ["processes", "host"])
def test_notes_of_containers_and_machines_that_are_gone_go_in_the_end(tmp_path: Path, other: str) -> None:
    """Old, and nobody holds the lock; nothing is given back for them."""
    place = holdings._place() | ({"boot": "another"} if other == "host" else {}) | {other: "another"}
    note = tmp_path / holdings.FOLDER / "job-1.train-3"
    note.parent.mkdir()
    note.write_text(json.dumps({"holding": {"stage_id": "job-1.train", "epoch": 3, "worker": "w"}, "place": place}))
    old = time.time() - holdings.KEPT_SECONDS - 1
    os.utime(note, (old, old))
    with note.open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert abandoned(tmp_path) == []
        assert note.exists(), "its container lives"
    assert abandoned(tmp_path) == []
    assert not note.exists()


def test_a_note_of_this_machine_is_given_back_however_old_it_is(tmp_path: Path) -> None:
    descriptor = holdings._note(tmp_path / holdings.FOLDER / "job-1.train-3", ONE)
    os.utime(descriptor, (0, 0))
    os.close(descriptor)
    assert abandoned(tmp_path) == [ONE]
    assert len(notes(tmp_path)) == 1


HOLDING = '"holding": {"stage_id": "job-1.train", "epoch": 3, "worker": "w"}'
UNFINISHED = ["", "{", "[]", '{"holding": {"stage_id": 1}, "place": {}}']
WITHOUT_PLACE = [f'{{{HOLDING}, "place": {place}}}' for place in ("{}", "[]", '"here"', "null", '{"boot": "b"}')]


@pytest.mark.parametrize("text", [*UNFINISHED, *WITHOUT_PLACE])
def test_a_note_that_was_never_finished_goes(tmp_path: Path, text: str) -> None:
    (tmp_path / holdings.FOLDER).mkdir()
    (tmp_path / holdings.FOLDER / "job-1.train-3").write_text(text)
    assert abandoned(tmp_path) == []
    assert notes(tmp_path) == []


def test_where_no_note_can_be_kept_the_attempt_goes_on(tmp_path: Path) -> None:
    (tmp_path / holdings.FOLDER).write_text("a file where the folder should be")
    with held(tmp_path, ONE) as inherited:
        assert inherited == ()


def no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_file_system_without_locks_costs_the_note_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with held(tmp_path, ONE) as inherited:
        assert inherited == ()
        assert notes(tmp_path) == [], "nobody could tell whether it is still held"
    assert "its lease must run out" in caplog.text


def test_a_note_that_cannot_be_looked_at_keeps_nobody_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / holdings.FOLDER
    (folder / "a-folder").mkdir(parents=True)
    os.close(holdings._note(folder / "job-1.train-3", ONE))
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        assert abandoned(tmp_path) == []
        assert len(notes(tmp_path)) == 2
    assert abandoned(tmp_path) == abandoned(tmp_path) == [ONE]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, "once for each, and not again at each look"
    assert "Is a directory" in told[0]
    assert os.strerror(errno.ENOLCK) in told[1]


def test_an_error_of_the_files_does_not_end_whoever_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stale(path: Path, pattern: str) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "glob", stale)
    here = Settings(home=tmp_path, database_url="postgresql://x@127.0.0.1:1/x")
    Successor(Losses(make_engine(here), here), here).look()
    assert os.strerror(errno.ESTALE) in caplog.text
