"""What a test asks of the appliance: its clock, its queue, and what goes wrong. One JSON file that every program reads.

Times are seconds of the appliance's own clock, which runs `speed` times as fast as ours, unless they say `real`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "release": "2.10",
    "server_version": "",  # of the cluster; empty: the client's own
    "namespaces": ["job-operator"],
    "systems": 1,  # CS systems that there are
    "speed": 1.0,
    "queue_seconds": 0.0,  # that every job waits at least
    "queue_seconds_of": {},  # by kind, in place of the above: {"execute": 60}
    "init_seconds": 0.0,  # in each of SCHEDULED and INITIALIZING
    "compile_seconds": 0.0,
    "step_seconds_real": 0.0,  # that a training step takes longer
    "lease_seconds_real": 10.0,  # without a heartbeat, after which a job is cancelled
    "reachable": True,
    "drop_at_step": 0,  # the connection is lost once, at this step, and back after:
    "drop_seconds_real": 0.5,
    "retry_seconds_real": 3.0,  # that the client tries to reach the cluster for
    "csctl": "ok",  # or "hang", or "unavailable"
    "failures": [],  # {"class": "ApplianceNanError", "where": "submit|compile|execute|step", "step": 3, "times": 1}
    "nan_at_step": 0,
    "split_lines": False,  # standard output comes in pieces that do not end with lines
    "noise_bytes": 0,  # of further log lines at each step
    "hold_checkpoint": 0,  # stop in the middle of this step's checkpoint until `hold` is released
    "die_in_checkpoint": 0,  # the client is killed in the middle of this step's checkpoint
    "no_marker": False,  # leave out the line that says the training was completed
    "sigint": "cancels",  # or "ignored", or "leaves" (ends without cancelling its job)
}


class Control:
    """The control file of a state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.path = state / "control.json"

    def set(self, **changes: Any) -> None:
        """Change what is asked.

        Raises:
            KeyError: there is no such thing to ask for.
        """
        for name in changes:
            DEFAULTS[name]  # a test that asks for what there is not must not pass
        with self.locked():
            if "speed" in changes:
                real = time.time()
                changes["_anchor"] = [real, self._at(self._raw(), real)]
            self._write({**self._raw(), **changes})

    def read(self) -> dict[str, Any]:
        """Everything that is asked now."""
        return {**DEFAULTS, **self._raw()}

    def now(self) -> float:
        """Seconds of the appliance's clock."""
        return self._at(self._raw(), time.time())

    def failure(self, where: str, *, step: int = 0) -> str | None:
        """The class of the error that is asked for here, once for each time it is asked for."""
        if not any(self._is_due(item, where, step) for item in self.read()["failures"]):
            return None
        with self.locked():
            failures = self.read()["failures"]
            for item in failures:
                if self._is_due(item, where, step):
                    item["times"] = item.get("times", 1) - 1
                    self._write({**self._raw(), "failures": failures})
                    return str(item["class"])
        return None

    def take(self, name: str) -> Any:
        """A value that is asked for once: it is unset by being read."""
        if self.read()[name] == DEFAULTS[name]:
            return DEFAULTS[name]
        with self.locked():
            found = self.read()[name]
            self._write({key: value for key, value in self._raw().items() if key != name})
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among the programs of this appliance."""
        with (self.state / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _is_due(item: dict[str, Any], where: str, step: int) -> bool:
        return item["where"] == where and item.get("step", 0) == step and item.get("times", 1) > 0

    @staticmethod
    def _at(found: dict[str, Any], real: float) -> float:
        since, began = found.get("_anchor", [0.0, 0.0])
        return float(began + (real - since) * found.get("speed", DEFAULTS["speed"]))

    def _raw(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return found

    def _write(self, content: dict[str, Any]) -> None:
        part = self.path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(content))
        part.replace(self.path)
