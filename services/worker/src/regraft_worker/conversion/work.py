"""The work folder of one artifact: beside it, hidden, and the caller's alone while the context lasts.

What is in it is there again after a kill, so that finished files are not made twice. It goes when the artifact is
published, and when what it holds has proved wrong.

The trade-off: two who want the same wait for each other by a file lock, which the folder's file system must have.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import InvalidDataError

_LOCK = "lock"
_POLL_SECONDS = 0.5


@contextmanager
def work_folder(final: Path, check: Callable[[], None]) -> Iterator[Path]:
    """`.work-<name>` beside `final`. Waits while another process has it; `check` is called meanwhile and may raise."""
    folder = final.parent / f".work-{final.name}"
    lock = _locked(folder, check)
    try:
        yield folder
    except InvalidDataError:
        _remove(folder)
        raise
    else:
        _remove(folder)
    finally:
        os.close(lock)


def link(path: Path, target: Path) -> None:
    """The file under another name as well, copied where the file system has no links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def holds_anything(folder: Path) -> bool:
    """Whether there is more in a work folder than its lock."""
    return any(path.name != _LOCK for path in folder.iterdir())


def clear(folder: Path) -> None:
    """Remove everything in a work folder but its lock."""
    for path in folder.iterdir():
        if path.name == _LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # one who waits may make it anew at this moment


def _locked(folder: Path, check: Callable[[], None]) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(folder / _LOCK)
        if descriptor is not None:
            if _is_ours(descriptor, folder / _LOCK):
                return descriptor
            os.close(descriptor)
        check()
        time.sleep(_POLL_SECONDS)


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:  # its owner has just removed the folder
        return None


def _is_ours(descriptor: int, path: Path) -> bool:
    """True when the lock is had, and on the file that is there now: its owner may have removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
