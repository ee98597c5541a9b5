"""What the first pod of a Job says: the lines of a stage process among whatever else it prints.

The pod marks its lines; the rest goes to this process's standard error, which is the stage's log. The output is read
from the API server, with a time on every line, so that a connection may break and another worker may go on: nothing is
told twice, and nothing is lost as long as the node keeps the log (the kubelet rotates it, at 10 MiB by default).
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from typing import Any

from regraft.errors import RegraftError
from regraft_worker.kubernetes.cluster import ENDED, Cluster, index_of, phase_of

MARK = "::regraft:: "
"""Before each line of the stage."""
_WAIT_SECONDS = 1.0
_TELLS = ("Running",)
"""Phases in which a pod that tells nothing is silent; one that waits for a node answers with an empty log."""


class Output:
    """Reads in a thread of its own, also what a further pod in the first one's place says, until `finish` or `stop`."""

    def __init__(self, cluster: Cluster, name: str, *, since: str = "") -> None:
        self._cluster, self._name = cluster, name
        self.until = since
        """Time of the newest line that was read; `take` says of each line when it was said."""
        self._heard = time.monotonic()
        self._lines: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._stop, self._finish = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="pod-output", daemon=True)
        self._thread.start()

    def take(self, *, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """What has arrived, each line with its time; waits so long for something."""
        found: list[tuple[str, dict[str, Any]]] = []
        try:
            found.append(self._lines.get(timeout=seconds))
            while True:
                found.append(self._lines.get_nowait())
        except queue.Empty:
            return found

    @property
    def silent_seconds(self) -> float:
        """For how long the first pod has told nothing of its stage, while it ran and its output could be read."""
        return time.monotonic() - self._heard

    @property
    def is_over(self) -> bool:
        """Whether nothing more will arrive."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """No further pod will come: the end of this one's output is the end."""
        self._finish.set()

    def stop(self) -> None:
        """Read no further."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            last = self._finish.is_set()
            try:
                pod, phase = self._pod()
                if phase not in _TELLS:
                    self._heard = time.monotonic()
                if pod is not None:
                    self._read(pod)
                if phase in ENDED and last:  # both before we read: that was all
                    return
            except RegraftError:  # not started yet, or out of reach: asked again
                self._heard = time.monotonic()
            self._stop.wait(_WAIT_SECONDS)

    def _pod(self) -> tuple[str | None, str]:
        """The first pod's name and phase."""
        first = next((pod for pod in self._cluster.pods(self._name) if index_of(pod) == 0), None)
        if first is None:
            return None, ""
        return first["metadata"]["name"], phase_of(first)

    def _read(self, pod: str) -> None:
        known = self.until
        for line in self._cluster.log(pod, since=known):
            at, _, text = line.decode("utf-8", errors="replace").partition(" ")
            # The server counts whole seconds; a line that was cut off comes again.
            if at > known and text.endswith("\n"):
                self._take(at, text.rstrip("\n"))
                self.until = at
            if self._stop.is_set():
                return

    def _take(self, at: str, text: str) -> None:
        marked = said(text)
        if marked is None:
            sys.stderr.write(text + "\n")
        else:
            self._heard = time.monotonic()
            self._lines.put((at, marked))


def said(text: str) -> dict[str, Any] | None:
    """A line of the stage; None: it is something else."""
    if not text.startswith(MARK):
        return None
    try:
        found = json.loads(text.removeprefix(MARK))
    except ValueError:
        return None
    return found if isinstance(found, dict) and "type" in found else None
