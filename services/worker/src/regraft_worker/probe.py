"""Which targets this machine offers, as JSON on standard output: `python -m regraft_worker.probe`.

A program of its own because looking at the hardware imports torch, which the supervising worker must not.
"""

from __future__ import annotations

import json
import sys

from regraft import discover

TARGETS = "regraft_worker.trainer.targets"


def available_targets() -> dict[str, dict[str, object]]:
    """Name of each available target to what is known about it."""
    found = {}
    for name in discover.names(TARGETS):
        facts = discover.load(TARGETS, name).available()
        if facts["available"]:
            found[name] = facts
    return found


if __name__ == "__main__":
    json.dump(available_targets(), sys.stdout)
