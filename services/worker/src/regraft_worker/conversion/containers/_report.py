"""The child's side of looking into a foreign file: limits first, then one JSON object on standard output.

Only the standard library, so that the child starts in a few hundredths of a second. The answer is
`{"found": ...}`, or `{"refused": reason, "cause": ...}`. Anything unforeseen ends the child with a traceback, which
the parent takes for a damaged file: nothing has to be caught here but what would be reported wrongly. What ends it
before `STARTED` is written to standard error is no matter of the file, of which nothing was read by then.
"""

from __future__ import annotations

import json
import reprlib
import resource
import sys
from collections.abc import Callable

STARTED = "regraft: looking into it"

UNREADABLE = "unreadable_checkpoint"
UNSAFE = "unsafe_checkpoint"
UNSUPPORTED = "unsupported_checkpoint"

_SHOWN = 120
_OPEN_FILES = 32


class Refusal(Exception):  # noqa: N818  # it is the answer, not a mishap
    """Why the file is not read."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason
        self.cause = cause


def shown(value: object) -> str:
    """A stranger's text or value, fit to be shown: quoted, and neither too long nor too deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = _SHOWN
    return short.repr(value)[: 2 * _SHOWN]


def limit(*, memory: int, seconds: int) -> None:
    """From here on: so much address space, so much computing, no file written, no core dumped."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        _, hard = resource.getrlimit(what)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def answer(read: Callable[[], object]) -> None:
    """Write what `read` finds, or why it refuses."""
    sys.stderr.write(f"{STARTED}\n")
    sys.stderr.flush()
    # Made while there is memory, and written after the handler: until it ends, the traceback holds what filled it.
    text = _refused(UNSAFE, "to look into it takes more memory than a checkpoint may need")
    try:
        text = json.dumps({"found": read()})
    except Refusal as refusal:
        text = _refused(refusal.reason, refusal.cause)
    except MemoryError:
        pass
    except RecursionError:
        text = _refused(UNSAFE, "it is nested too deeply")
    sys.stdout.write(text)
    sys.stdout.flush()


def _refused(reason: str, cause: str) -> str:
    return json.dumps({"refused": reason, "cause": cause})
