"""Start a program that dies with us: `python -m regraft_worker.cerebras.held <our process id> <program> [words...]`.

The kernel's parent-death signal outlives exec, so a program that knows nothing of it is held by it, too. Signals that
the stage process ignores are given back their meaning: the client listens to SIGINT.
"""

from __future__ import annotations

import os
import signal
import sys

from regraft.processes import die_with

if __name__ == "__main__":
    die_with(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # what the site's settings name
