"""The outputs of one command, made in a work folder beside their places, proven, and then moved there.

A run that is cut short leaves the work folder with the files, and the tensors in one, that are whole; the next one
with the same `identity` goes on with them, and one with another begins anew. Once the outputs are proven this is
recorded, and all that a later run has to do is to move those that are not yet in place. Each output appears by one
rename; a folder that is replaced changes places with the new one.

The trade-off: two outputs are two renames. So that an old one and a new one never stand together, the last one (the
checkpoint) that is replaced goes into the work folder first: a kill leaves a config without its checkpoint, until the
command is given again. When not to use it: for artifacts of a job, which have a manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.errors import ConflictError
from regraft_worker.conversion.parted import refuse_existing, replace, sync, write_text
from regraft_worker.conversion.work import clear, work_folder
from regraft_worker.conversion.writers.finished import Finished
from regraft_worker.conversion.writers.journal import holds_tensors

_FINISHED, _PROVEN = "finished.json", "proven.json"
_REPLACED = "replaced"


class Work:
    """One command's work folder, while it is this process's alone."""

    def __init__(self, place: Path, target: Path, outputs: tuple[str, ...], *, identity: str, files_in: str) -> None:
        self.folder = place
        self._target, self._outputs, self._identity = target, outputs, identity
        self.proof = self._proof()
        if not self.proof:
            if _json(place / _FINISHED).get("plan") != identity:
                clear(place)
            self.finished = Finished(place / files_in, plan=identity, state=place / _FINISHED)
            self.finished.remember()

    def refuse_existing(self) -> None:
        """Raise ConflictError when an output is there that an earlier run of this command did not put there."""
        refuse_existing(*(self._target / name for name in self._outputs if not self._is_placed(name)))

    def prove(self, proof: str) -> None:
        """All outputs are whole and right; `proof` says how that is known."""
        inodes = {name: (self.folder / name).stat().st_ino for name in self._outputs}
        partial = self.folder / f"{_PROVEN}.partial"
        write_text(partial, json.dumps({"plan": self._identity, "proof": proof, "inodes": inodes}))
        partial.rename(self.folder / _PROVEN)
        sync(self.folder)

    def publish(self) -> None:
        """Move what is not in its place yet; the last output last, and what it replaces first."""
        last = self._outputs[-1]
        if len(self._outputs) > 1 and (self._target / last).exists() and not self._is_placed(last):
            (self._target / last).rename(self.folder / f"{_REPLACED}-{last}")
            sync(self._target)
        for name in self._outputs:
            if not self._is_placed(name):
                replace(self.folder / name, self._target / name)
        sync(self._target)

    @property
    def is_worth_keeping(self) -> bool:
        return bool(self._proof() or self.finished.digests or holds_tensors(self.folder))

    def _proof(self) -> str:
        """Of an earlier run whose outputs are all still there, here or in their places."""
        record = _json(self.folder / _PROVEN)
        there = record.get("plan") == self._identity and all(
            self._is_placed(name) or _inode(self.folder / name) == record["inodes"][name] for name in self._outputs
        )
        return str(record["proof"]) if there else ""

    def _is_placed(self, name: str) -> bool:
        inode = _json(self.folder / _PROVEN).get("inodes", {}).get(name)
        return inode is not None and _inode(self._target / name) == inode


@contextmanager
def resumable(folder: Path, *outputs: str, identity: str, files_in: str = "", overwrite: bool) -> Iterator[Work]:
    """A place to make `outputs` (names in `folder`) in; `files_in`: the one of them that is a folder of several files.

    Raises:
        ConflictError: one of them is there already and `overwrite` is false, or another process is making it.
    """
    final = folder / outputs[-1]
    with work_folder(final, lambda: _refuse_busy(final)) as place:
        work = Work(place, folder, outputs, identity=identity, files_in=files_in)
        try:
            if not overwrite:
                work.refuse_existing()
            yield work
        except BaseException:
            if not work.is_worth_keeping:
                shutil.rmtree(place, ignore_errors=True)
            raise


def _refuse_busy(final: Path) -> None:
    raise ConflictError(
        "another process is making this output",
        field="--output-dir",
        value=str(final),
        remedy="Wait for it, or choose another folder.",
        reason="output_busy",
    )


def _json(path: Path) -> dict[str, Any]:
    """A record; nothing when there is none, or half of one after a power failure."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None
