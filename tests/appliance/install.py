"""An appliance in a folder: its programs, its state, and the handle by which a test steers it."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.board import Board, Job
from appliance.control import Control
from appliance.schema import release_of
from regraft.processes import environments

TESTS = Path(__file__).parents[1]
_PROGRAM = """#!{python}
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from appliance import {module}
sys.exit({module}.main({arguments}Path({state!r}), sys.argv[1:]))
"""


@dataclass(frozen=True)
class Appliance:
    """One appliance."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def csctl(self) -> Path:
        return self.folder / "bin" / "csctl"

    @property
    def client(self) -> Path:
        """`cszoo` from release 2.4 on, `run.py` before."""
        release = release_of(Control(self.state).read()["release"])
        return self.folder / "bin" / ("cszoo" if release >= (2, 4) else "run.py")

    @property
    def credentials(self) -> Path:
        return self.folder / "certs" / "tls.crt"

    def set(self, **asked: Any) -> None:
        """Ask for something, see `control.DEFAULTS`."""
        Control(self.state).set(**asked)

    def jobs(self, **labels: str) -> list[Job]:
        """The jobs as they are now, the oldest first: all, or those with these labels."""
        return [job for job in Board(self.state).jobs() if labels.items() <= job["labels"].items()]

    def plant(self, **fields: Any) -> str:
        """A job of somebody else, see `Board.plant`."""
        return Board(self.state).plant(**fields)

    def calls(self, *begin: str) -> list[list[str]]:
        """The command lines of `csctl` so far, of those that begin with these words."""
        file = self.state / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [words for line in lines if (words := json.loads(line)["words"])[: len(begin)] == list(begin)]

    def clients(self) -> list[int]:
        """The clients that run."""
        program, found = str(self.client).encode(), []
        for pid, _ in environments():
            with suppress(OSError):  # it has ended meanwhile
                if program in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found


def install(
    folder: Path, *, release: str = "2.10", python: str = sys.executable, tests: Path = TESTS, **asked: Any
) -> Appliance:
    """Put an appliance of a release into a folder.

    `python`, `tests`: what its programs run with and where they find this package, if not as here.
    """
    made = Appliance(folder)
    made.state.mkdir(parents=True)
    (folder / "bin").mkdir()
    made.credentials.parent.mkdir()
    made.credentials.write_text("a certificate\n")
    made.set(release=release, **asked)
    for name, module in (("run.py", "client"), ("csctl", "csctl"), ("cszoo", "client")):
        if name == "cszoo" and release_of(release) < (2, 4):
            continue
        arguments = f"{name!r}, " if module == "client" else ""
        program = _PROGRAM.format(
            python=python, tests=str(tests), module=module, arguments=arguments, state=str(made.state)
        )
        path = folder / "bin" / name
        path.write_text(program)
        path.chmod(0o755)
    return made
