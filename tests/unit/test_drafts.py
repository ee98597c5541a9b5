"""Drafts: what a kill left goes, whatever its process id; what is under way stays, in this process and in another."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from regraft.storage import draft_folder, drafts, publish, remove_leftovers

HOLD = """
import sys
from pathlib import Path
from regraft.storage.drafts import draft_folder

with draft_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """One that has a draft, and that draft."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_nothing_stays_of_a_draft_but_what_was_moved(tmp_path: Path) -> None:
    with draft_folder(tmp_path / ".tmp-x") as folder:
        assert list(folder.iterdir()) == []
        (folder / "kept").touch()
        (folder / "left").touch()
        (folder / "kept").rename(tmp_path / "kept")

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_leftover_goes_also_when_its_process_id_is_that_of_a_living_one(tmp_path: Path) -> None:
    for pid in (os.getpid(), os.getppid()):
        (tmp_path / f".tmp-x-{pid}" / "half").mkdir(parents=True)

    with publish(tmp_path / "x", kind="dataset") as draft:
        (draft.folder / "a.txt").write_text("hello")

    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_draft_of_a_living_process_stays_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".tmp-x"
    with another_process(path) as (process, theirs):
        with draft_folder(path) as mine, draft_folder(path) as of_another_thread:
            assert all(folder.is_dir() for folder in (theirs, mine, of_another_thread))
        assert (theirs / "file").read_text() == "half"
        process.kill()
        process.wait()
        remove_leftovers(path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_made", [False, True])
def test_one_that_is_taken_for_a_leftover_before_it_has_its_lock_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_made: bool
) -> None:
    path, opened, swept = tmp_path / ".tmp-x", drafts._opened, []

    def overtaken(outer: Path) -> int:
        lock = opened(outer) if is_made else None
        if not swept:
            swept.append(outer)
            remove_leftovers(path)
        return opened(outer) if lock is None else lock

    monkeypatch.setattr(drafts, "_opened", overtaken)
    with draft_folder(path) as folder:
        assert folder.is_dir()
        assert not swept[0].exists()
        remove_leftovers(path)
        assert folder.is_dir()


def test_without_locks_drafts_work_and_leftovers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(drafts.fcntl, "flock", no_locks)
    (tmp_path / ".tmp-x-1").mkdir()

    with draft_folder(tmp_path / ".tmp-x") as folder:
        assert folder.is_dir()

    assert [path.name for path in tmp_path.iterdir()] == [".tmp-x-1"]
