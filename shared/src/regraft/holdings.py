"""Attempts that this machine works on, each a locked note, so that a death here is known and not guessed from silence.

A lease that runs out tells of a death anywhere, but late. On the machine where a worker was killed the kernel can tell
at once: the supervisor locks a file for each attempt and hands the open file on to the stage process, and the lock is
gone when the last of them is. Whoever gets it knows that neither is left to write, and needs no process id for that,
which may be another process's by now, and no clock.

Only notes of the same boot and the same process namespace count: a folder on a network file system shows those of other
machines too, and processes in another container could not be looked for. Where there is no note (another machine, a new
container, a full disk, a file system without locks), the lease is waited for as ever. Not for deciding who may write:
that is the epoch's part, also after this.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = "held"
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

    What `give_back` raises goes on, and the note stays.
    """
    for path in sorted((home / FOLDER).glob("*")):
        with suppress(FileNotFoundError, PermissionError):
            descriptor = os.open(path, os.O_RDWR)
            try:
                if _lock(descriptor) and _is_settled(descriptor, give_back):
                    path.unlink()
            finally:
                os.close(descriptor)


def _is_settled(descriptor: int, give_back: Callable[[Holding], bool]) -> bool:
    """Whether the note, which is locked, is of no more use."""
    try:
        note = json.loads(os.pread(descriptor, 1 << 16, 0))
        holding, place = Holding(**note["holding"]), note["place"]
    except (ValueError, KeyError, TypeError):
        return True  # its worker was killed while it wrote it, before anything was started
    if place["boot"] != _place()["boot"]:
        return _was_here(place)
    return place == _place() and give_back(holding)


def _was_here(place: dict[str, str]) -> bool:
    """A note of an earlier boot of this machine is of no use: the lease tells of it. Another machine's is not ours."""
    return place["host"] == _place()["host"]


def _note(path: Path, holding: Holding) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(descriptor):
            raise BlockingIOError(f"{path} is locked")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"holding": asdict(holding), "place": _place()}).encode(), 0)
    except OSError:
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
