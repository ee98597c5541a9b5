"""The checkpoints of `create-hdf5`: what a resumed run needs in order to give the arrays of an undisturbed one.

`checkpoint_{process}.txt` is the original's: documents done, files written. Its two numbers are not enough, as the
carry and the random state are lost with them, so each finished file also adds a line to `resume_{process}.jsonl`, whose
first line is the start. A resumed process goes on after the last file that both know of and that is there.
The trade-off: documents before that point are read again, though not tokenised.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regraft.errors import InvalidInputError


class Checkpoint:
    """One process's record."""

    def __init__(self, folder: Path, *, process: int, fingerprint: str) -> None:
        self._numbers = folder / f"checkpoint_{process}.txt"
        self._states = folder / f"resume_{process}.jsonl"
        self._fingerprint = fingerprint

    def begin(self, state: dict[str, Any]) -> None:
        """No file is finished yet; another run's record goes away."""
        self._states.write_text(self._line(state, files=0), encoding="utf-8")

    def save(self, state: dict[str, Any], *, documents: int, files: int) -> None:
        """`files` files are finished."""
        with self._states.open("a", encoding="utf-8") as log:
            log.write(self._line(state, files=files))
        part = self._numbers.with_suffix(".part")
        part.write_text(f"{documents}, {files}", encoding="utf-8")
        part.replace(self._numbers)

    def load(self, path_of: Callable[[int], Path]) -> dict[str, Any] | None:
        """The state to go on from; drops the records after it. None without a record. `path_of` names file n.

        Raises:
            InvalidInputError: the record is of a run with other options or inputs.
        """
        states = {state["files"]: state for state in self._read()}
        there = [path_of(number).is_file() for number in range(self._files_done())]
        usable = sorted(files for files in states if files <= len(there) and all(there[:files]))
        part = self._states.with_suffix(".part")
        part.write_text("".join(json.dumps(states[files]) + "\n" for files in usable), encoding="utf-8")
        part.replace(self._states)
        return states[usable[-1]] if usable else None

    def _line(self, state: dict[str, Any], *, files: int) -> str:
        return json.dumps({**state, "files": files, "fingerprint": self._fingerprint}) + "\n"

    def _read(self) -> list[dict[str, Any]]:
        states = []
        for line in self._states.read_text(encoding="utf-8").splitlines() if self._states.is_file() else ():
            with contextlib.suppress(ValueError):  # a line that a kill has cut short
                states.append(json.loads(line))
        for state in states:
            if state["fingerprint"] != self._fingerprint:
                raise InvalidInputError(
                    "the unfinished run had other options or inputs",
                    field="resume_from_checkpoint",
                    value=str(self._states),
                    remedy="Give the same ones, or start anew with --overwrite.",
                )
        return states

    def _files_done(self) -> int:
        try:
            return int(self._numbers.read_text(encoding="utf-8").split(",")[1])
        except (OSError, ValueError, IndexError):
            return 0
