"""The work folder of one dataset: pieces of work that are done, and who is at which.

A unit of work has a name and leaves a folder of that name, which appears by a rename once it is whole. So a process
that is killed loses the unit it was at and nothing else, and whoever comes later, on this machine or another one that
sees the folder, skips what is done. A claim says that somebody is at a unit; it is a file that its owner touches, and
that counts for nothing once it has not been touched for a minute. Two at the same unit is waste and no harm: they
make the same bytes, and the first to finish stays.

The trade-off: a shared folder must have atomic renames and exclusive creation, as local file systems and NFS have and
object stores have not.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE_SECONDS = 60.0
BEAT_SECONDS = 5.0

_CLAIMS, _CLOCK = ".claims", "clock"
_DRAFT = ".tmp-"


def work_folder(dataset: Path) -> Path:
    """Where the work on a dataset lies until it is published: beside it."""
    return dataset.parent / f".work-{dataset.name}"


def link(path: Path, target: Path) -> None:
    """The file under another name; the work folder keeps it until all is published."""
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)


class WorkFolder:
    """`path` with its units as folders; made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._claims = path / _CLAIMS
        self._claims.mkdir(parents=True, exist_ok=True)
        self._owner = f"{socket.gethostname()}-{os.getpid()}"

    def folder(self, unit: str) -> Path:
        """Where a unit lies once it is done."""
        return self.path / unit

    def is_done(self, unit: str) -> bool:
        """True when the unit is there, whole."""
        return self.folder(unit).is_dir()

    @contextmanager
    def make(self, unit: str) -> Iterator[Path]:
        """An empty folder that becomes the unit when the block ends without an exception."""
        draft = self.path / f"{_DRAFT}{unit}-{self._owner}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            _sync(draft)
            try:
                draft.rename(self.folder(unit))
            except OSError:
                if not self.is_done(unit):  # else somebody was first: theirs is as good
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def put(self, name: str, content: bytes) -> None:
        """A file of a unit that is done, whole, in the place of an earlier one."""
        path = self.path / name
        draft = self.path / f"{_DRAFT}{path.name}-{self._owner}"
        draft.write_bytes(content)
        draft.replace(path)

    def claim(self, unit: str) -> bool:
        """True when the unit is the caller's now: nobody is at it, or nobody who is still alive."""
        path = self._claims / unit
        if self._is_abandoned(path):
            path.unlink(missing_ok=True)
        try:
            with path.open("xb", buffering=0) as file:
                file.write(self._owner.encode())
        except FileExistsError:
            return False
        except OSError:
            path.unlink(missing_ok=True)  # no space left: nobody else has to wait for one that is not at it
            raise
        return True

    def is_claimed(self, unit: str) -> bool:
        """True when somebody who is alive is at it."""
        path = self._claims / unit
        return path.is_file() and not self._is_abandoned(path)

    def beat(self, units: list[str]) -> None:
        """The caller is still at these."""
        for unit in units:
            with suppress(FileNotFoundError):
                os.utime(self._claims / unit)

    @contextmanager
    def holding(self, unit: str) -> Iterator[None]:
        """A claim that stays alive until the block ends, however long it computes."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                self.beat([unit])

        self.claim(unit)
        thread = threading.Thread(target=beat, name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.release(unit)

    def release(self, unit: str) -> None:
        """The caller is done with it, or gives it up."""
        (self._claims / unit).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the claims and drafts of those who are gone, as far as that can be told."""
        claimed = set()
        for path in self._claims.iterdir():
            if self._is_abandoned(path):
                path.unlink(missing_ok=True)
            else:
                claimed.add(path.name)
        for draft in self.path.glob(f"{_DRAFT}*"):
            at_work = any(draft.name.startswith(f"{_DRAFT}{unit}-") for unit in claimed)
            if not at_work and not self._is_fresh(draft):
                shutil.rmtree(draft, ignore_errors=True)

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _is_abandoned(self, path: Path) -> bool:
        age = self._age(path)
        if age >= STALE_SECONDS:
            return True
        with suppress(OSError):
            host, _, pid = path.read_text().rpartition("-")
            if not pid:  # killed between making the file and writing its name into it, unless it is doing that now
                return age >= BEAT_SECONDS
            return host == socket.gethostname() and not Path(f"/proc/{pid}").exists()
        return False

    def _is_fresh(self, draft: Path) -> bool:
        """True when its owner may still be at it: lives on this machine, or began a moment ago on another one."""
        owner, _, pid = draft.name.rpartition("-")
        if owner.endswith(f"-{socket.gethostname()}"):
            return Path(f"/proc/{pid}").exists()
        return self._age(draft) < STALE_SECONDS

    def _age(self, path: Path) -> float:
        """Seconds since the file was touched, by the clock of the disk's own machine; 0 when it is not there."""
        clock = self.path / f".{_CLOCK}-{self._owner}"
        clock.touch()
        try:
            return clock.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
