"""Folders to write in, each its writer's until the context ends, or until the process does.

A draft lies in a folder of a random name beside a lock, and the lock is the kernel's: it goes with the process that
holds it. So a leftover is told from a draft under way without process ids, which say nothing of a process in another
container and may be another one's by now (in a pod it is the same one every time), and on a shared file system the
drafts of other machines are safe. Where a file system has no locks, nothing is taken for a leftover: what a kill left
there stays until somebody deletes it.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "lock"
_DRAFT = "draft"


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """An empty folder in one named `<path>-<random>`, removed in the end with all that was not moved out of it.

    What killed processes left under this name goes first. The folder that `path` is in must be there.
    """
    remove_leftovers(path)
    outer, lock = _claimed(path)
    try:
        folder = outer / _DRAFT
        folder.mkdir()
        yield folder
    finally:
        _remove(outer, lock)


def remove_leftovers(path: Path) -> None:
    """Remove the drafts `<path>-*` whose processes are gone."""
    for outer in path.parent.glob(f"{glob.escape(path.name)}-*"):
        try:
            # Made where there is none, so that one who is about to make it sees that the folder is taken.
            lock = _opened(outer)
        except OSError:
            continue
        if _is_had(lock, outer):
            _remove(outer, lock)
        else:
            os.close(lock)


def _claimed(path: Path) -> tuple[Path, int]:
    """A folder that is new, and its lock."""
    while True:
        outer = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
        outer.mkdir()
        with suppress(FileNotFoundError):  # somebody took it for a leftover before it had its lock
            lock = _opened(outer)
            if _is_had(lock, outer, unsupported=True):
                return outer, lock
            os.close(lock)


def _opened(outer: Path) -> int:
    return os.open(outer / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)


def _is_had(lock: int, outer: Path, *, unsupported: bool = False) -> bool:
    """Whether the lock is the caller's now, and on the file that is there; `unsupported`: where there are no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return unsupported
    try:
        return (outer / _LOCK).stat().st_ino == os.fstat(lock).st_ino
    except FileNotFoundError:
        return False


def _remove(outer: Path, lock: int) -> None:
    shutil.rmtree(outer, ignore_errors=True)
    os.close(lock)
    with suppress(OSError):
        outer.rmdir()  # NFS has a file under another name until it is closed, and so kept the folder
