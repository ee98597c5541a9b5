"""The outputs of one command, made in a work folder beside their places, proven, and then moved there.

A run that is cut short leaves the work folder with the files, and the tensors in one, that are whole; the next one
with the same `identity` goes on with them, and one with another begins anew. Once the outputs are proven this is
recorded, and all that a later run has to do is to move those that are not yet in place. Each output appears by one
rename; a folder that is replaced changes places with the new one.

The trade-off: two outputs are two renames. So that an old one and a new one never stand together, those that are
replaced go into the work folder first, the last one (the checkpoint) before the others. A kill leaves outputs without
their checkpoint; the next run, whatever its options, begins by taking this back. When not to use it: for artifacts of
a job, which have a manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.errors import ConflictError, InvalidDataError
from regraft_worker.conversion.parted import refuse_existing, refuse_other_kind, replace, sync, write_text
from regraft_worker.conversion.work import clear, holds_anything, work_folder
from regraft_worker.conversion.writers.finished import Finished
from regraft_worker.conversion.writers.journal import holds_tensors

_FINISHED, _PROVEN = "finished.json", "proven.json"
_REPLACED = "replaced-"


class Work:
    """One command's work folder, while it is this process's alone."""

    def __init__(self, place: Path, target: Path, outputs: tuple[str, ...], *, identity: str, files_in: str) -> None:
        self.folder = place
        self.proof = ""
        """Of an earlier run; empty when there is something left to write or to prove."""
        self._target, self._outputs, self._identity, self._files_in = target, outputs, identity, files_in
        self._finished: Finished | None = None

    def begin(self, *, overwrite: bool) -> None:
        """See what an earlier run has left; what it had begun to publish is taken back before anything else.

        Raises:
            ConflictError: an output is there already; nothing is lost by that.
        """
        self.undo()
        self._refuse(overwrite=overwrite)
        self.proof = self._proof()
        if self.proof:
            return
        if _json(self.folder / _FINISHED).get("plan") != self._identity:
            clear(self.folder)
        self._finished = Finished(self.folder / self._files_in, plan=self._identity, state=self.folder / _FINISHED)
        self._finished.remember()

    @property
    def finished(self) -> Finished:
        """The files that are whole, while some are not or are not proven."""
        assert self._finished is not None, "begun, and no proof"
        return self._finished

    def prove(self, proof: str) -> None:
        """All outputs are whole and right; `proof` says how that is known."""
        inodes = {name: (self.folder / name).stat().st_ino for name in self._outputs}
        partial = self.folder / f"{_PROVEN}.partial"
        write_text(partial, json.dumps({"plan": self._identity, "proof": proof, "inodes": inodes}))
        partial.rename(self.folder / _PROVEN)
        sync(self.folder)

    def publish(self) -> None:
        """Move all outputs to their places, the last one last, after those that they replace are out of the way."""
        if self._is_placed(self._outputs[-1]):
            return
        if len(self._outputs) > 1:
            for name in reversed(self._outputs):
                if (self._target / name).exists():
                    (self._target / name).rename(self._aside(name))
            sync(self._target)
        for name in self._outputs:
            replace(self.folder / name, self._target / name, aside=self._aside(name))
        sync(self._target)

    def undo(self) -> None:
        """Take back a publication that was cut short: what it was to replace is in its place again, and all of it."""
        names = list(_json(self.folder / _PROVEN).get("inodes", ()))  # of that run; other options may have other names
        if not names or self._is_placed(names[-1]):
            return
        for name in filter(self._is_placed, names):
            (self._target / name).rename(self.folder / name)
        for name in names:
            if self._aside(name).exists() and not (self._target / name).exists():
                self._aside(name).rename(self._target / name)
        sync(self._target)

    @property
    def is_worth_keeping(self) -> bool:
        if self._finished is None:
            return holds_anything(self.folder)
        return bool(self._proof() or self._finished.digests or holds_tensors(self.folder))

    @property
    def what_is_kept(self) -> str:
        """For the user of a command that has failed; empty where the next one begins anew."""
        has_begun = self.proof or self._finished is not None
        kept = f"what is whole is kept in {self.folder}; the same command goes on with it"
        return kept if has_begun and self.is_worth_keeping else ""

    def _aside(self, name: str) -> Path:
        return self.folder / f"{_REPLACED}{name}"

    def _refuse(self, *, overwrite: bool) -> None:
        is_ours = _json(self.folder / _PROVEN).get("plan") == self._identity
        for name in self._outputs:
            refuse_other_kind(self._target / name, is_folder=name == self._files_in)
            if not overwrite and not (is_ours and self._is_placed(name)):
                refuse_existing(self._target / name)

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
        ConflictError: one of them is there already and `overwrite` is false, or a file is where a folder is to be or
            the other way round, or another process is making it.
    """
    final = folder / outputs[-1]
    with work_folder(final, lambda: _refuse_busy(final)) as place:
        work = Work(place, folder, outputs, identity=identity, files_in=files_in)
        try:
            work.begin(overwrite=overwrite)
            yield work
        except InvalidDataError:  # nothing of it is kept
            raise
        except BaseException as error:
            work.undo()
            if work.what_is_kept:
                error.add_note(work.what_is_kept)
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
