"""Which files of a folder are whole, remembered beside them, so that a run that was cut short is taken up again.

Of a file that is not, a journal says which tensors in it are (see `journal`).

A file counts when every tensor in it still has the digest that it was written with; it is read once to know that.
A record of another plan is void, and so are the files it speaks of. Without a plan nothing is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from regraft.errors import InvalidDataError
from regraft_worker.conversion.bits import digest
from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.writers.journal import Journal

_PARTIAL = ".partial"
Write = Callable[[Path, Journal | None], Mapping[str, str]]
"""Makes a file at that path, or goes on with the one of the journal; digests of its tensors."""


class Finished:
    """The finished files of `folder`; the record is at `state`."""

    def __init__(self, folder: Path, *, plan: str, state: Path) -> None:
        self._folder, self._plan, self._state = folder, plan, state
        self.digests: dict[str, dict[str, str]] = {}
        """Of the tensors in each file, by its name."""
        self.kept: dict[str, int] = {}
        """Bytes of each file that was there at the start."""
        self.kept_tensors: dict[str, int] = {}
        """Bytes of each tensor that was there in a file that was not whole."""
        self._load()

    def make(self, path: Path, partial: Path, write: Write) -> None:
        """Have a file of the folder written under the name `partial`; it gets its own when it is whole."""
        journal = Journal(partial, plan=self._plan) if self._plan else None
        if journal is None:
            partial.unlink(missing_ok=True)  # of a run that was killed
        digests = write(partial, journal)
        partial.rename(path)
        if journal is not None:
            journal.remove()
            self.kept_tensors |= journal.kept
        self.digests[path.name] = dict(digests)
        self.remember()

    def remember(self) -> None:
        """Write down for which plan which files are whole."""
        if self._plan:
            partial = self._state.with_name(self._state.name + _PARTIAL)
            partial.write_text(json.dumps({"plan": self._plan, "sha256": self.digests}) + "\n", encoding="utf-8")
            partial.rename(self._state)

    def forget(self) -> None:
        """Remove the files and the record."""
        for path in (*(self._folder / name for name in self.digests), self._state):
            path.unlink(missing_ok=True)

    def _load(self) -> None:
        try:
            record = json.loads(self._state.read_bytes())
        except (FileNotFoundError, ValueError):  # a power failure may leave half a record
            return
        for name, digests in record["sha256"].items():
            path = self._folder / name
            if self._plan and record["plan"] == self._plan and _holds(path, digests):
                self.digests[name], self.kept[name] = digests, path.stat().st_size
            else:
                path.unlink(missing_ok=True)


def _holds(path: Path, digests: Mapping[str, str]) -> bool:
    """True when the file is there and its tensors are those that were written."""
    try:
        with open_container(path) as container:
            tensors = container.tensors
            return all(name in tensors and digest(tensors[name]) == found for name, found in digests.items())
    except InvalidDataError:
        return False
