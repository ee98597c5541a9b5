"""The parent's side of looking into a foreign file: a child process that has nothing but the file, and its answer.

The child gets the open file as standard input, no other descriptor, an environment without anybody's secrets, and
limits on time and memory. However it ends, it is gone when this returns, and nothing of it is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from regraft.errors import RegraftError
from regraft_worker.conversion.containers._report import STARTED
from regraft_worker.conversion.containers.base import UNREADABLE, UNSAFE, refused

_SECONDS = 120
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
# Threads of a linear algebra library that numpy starts would take address space that the limit counts.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def look_into(path: Path, descriptor: int, *, module: str, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the child `module` of this package finds in the open file.

    Raises:
        InvalidDataError: it refuses the file, or does not survive it.
        RegraftError: it does not come to read the file, which says nothing about the file.
    """
    name = f"{__package__}.{module}"
    environment = _ENVIRONMENT | {key: os.environ[key] for key in _KEPT if key in os.environ}
    try:
        done = subprocess.run(
            # -I: no module from the working folder or the environment takes the place of a known one.
            [sys.executable, "-I", "-m", name, *words],
            stdin=descriptor,
            capture_output=True,
            env=environment,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise refused(path, UNSAFE, f"to look into it took more than {_SECONDS} seconds") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        if STARTED not in said:
            raise _not_started(name, said)
        raise refused(path, *_why_it_ended(done.returncode, said[said.index(STARTED) + 1 :]))
    content: dict[str, Any] = json.loads(done.stdout)
    if "refused" in content:
        raise refused(path, content["refused"], content["cause"])
    found: dict[str, Any] = content["found"]
    return found


def _not_started(name: str, said: list[str]) -> RegraftError:
    return RegraftError(
        f"the process that looks into a checkpoint file could not be started ({_last(said)})",
        field=name,
        remedy=f"Install Regraft for {sys.executable}: the process reads no PYTHONPATH and no user's packages.",
        reason="reader_not_started",
    )


def _why_it_ended(returncode: int, said: list[str]) -> tuple[str, str]:
    if returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return UNSAFE, "to look into it takes more computing than a checkpoint may need"
    if returncode < 0:
        return UNREADABLE, f"its structure is damaged (the parser ended with signal {-returncode})"
    return UNREADABLE, f"its structure is damaged ({_last(said)})"


def _last(said: list[str]) -> str:
    return said[-1][:300] if said else "without a word"
