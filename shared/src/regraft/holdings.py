"""Attempts that this machine works on, each a locked note, so that a death here is known and not guessed from silence.

A lease that runs out tells of a death anywhere, but late. On the machine where a worker was killed the kernel can tell
at once: the supervisor locks a file for each attempt and hands the open file on to the stage process, and the lock is
gone when the last of them is. Whoever gets it knows that neither is left to write, and needs no process id for that,
which may be another process's by now, and no clock.

Only notes of the same boot and the same process namespace count: a folder on a network file system shows those of other
machines too, and processes in another container could not be looked for. Those are left alone, and dropped once they
are `KEPT_SECONDS` old and nobody holds their lock: their container is gone. (Where the file system does not show the
locks of other machines, that may be too early; then their leases are waited for.) Where there is no note (another
machine, a new container, a full disk, a file system without locks), the lease is waited for as ever. Not for deciding
who may write: that is the epoch's part, also after this.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = "held"
KEPT_SECONDS = 3600.0
"""Age at which a note of another machine or container is dropped: many leases, so that nobody waits for it."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Holding:
    """An attempt at a stage by a worker of this machine."""

    stage_id: str
    epoch: int
    worker: str


@contextmanager
def held(home: Path, holding: Holding) -> Iterator[tuple[int, ...]]:
    """Keep a note of the attempt; gives the descriptors that its process must inherit (none where none can be kept)."""
    path = home / FOLDER / f"{holding.stage_id}-{holding.epoch}"
    try:
        descriptor = _note(path, holding)
    except OSError as error:
        log.warning("%s: should this worker be killed, its lease must run out: %s", holding.stage_id, error)
        yield ()
        return
    try:
        yield (descriptor,)
    finally:
        with suppress(OSError):
            path.unlink()  # before the lock is let go: nobody shall take it for abandoned
        os.close(descriptor)


def take_over(home: Path, give_back: Callable[[Holding], bool]) -> None:
    """Call `give_back` for each attempt whose worker and stage process are gone; when it says True, its note goes too.

    A note that cannot be looked at stays, and so does one at which `give_back` raises an OSError; the others are
    looked at all the same. What else `give_back` raises goes on, and the note stays.
    """
    for path in sorted((home / FOLDER).glob("*")):
        try:
            _take_over(path, give_back)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # else its worker, or somebody who looked as well, was faster
                _tell(path, str(error))


def _take_over(path: Path, give_back: Callable[[Holding], bool]) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        if _lock(descriptor) and _is_settled(descriptor, give_back):
            path.unlink()
    finally:
        os.close(descriptor)


@lru_cache(maxsize=1024)
def _tell(path: Path, error: str) -> None:
    """Once: it will be looked at again every few seconds."""
    log.warning("%s cannot be looked at; should its worker have been killed, its lease must run out: %s", path, error)


def _is_settled(descriptor: int, give_back: Callable[[Holding], bool]) -> bool:
    """Whether the note, which is locked, is of no more use."""
    try:
        note = json.loads(os.pread(descriptor, 1 << 16, 0))
        holding, place = Holding(**note["holding"]), {name: note["place"][name] for name in _place()}
    except (ValueError, KeyError, TypeError):
        return True  # its worker was killed while it wrote it, before anything was started
    here = _place()
    if place == here:
        return give_back(holding)
    if place["host"] == here["host"] and place["boot"] != here["boot"]:
        return True  # of an earlier boot of this machine: the lease tells of it
    return time.time() - os.fstat(descriptor).st_mtime > KEPT_SECONDS


def _note(path: Path, holding: Holding) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(descriptor):
            raise BlockingIOError(f"{path} is locked")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"holding": asdict(holding), "place": _place()}).encode(), 0)
    except OSError as error:
        if not isinstance(error, BlockingIOError):  # else it is another's
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _place() -> dict[str, str]:
    """Where processes see one another."""
    return {"host": os.uname().nodename, "boot": BOOT.read_text().strip(), "processes": str(NAMESPACE.readlink())}
