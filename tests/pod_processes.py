"""Pods as processes of this machine, for stand-ins of a cluster. One waits for its node until it is started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]
_UNSCHEDULED: Json = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes fit"}


class Pod:
    """A process with its output in a file, every line after its time."""

    def __init__(self, job: Json, index: int, folder: Path, port: int) -> None:
        template, self.index = job["spec"]["template"], index
        self.job = job["metadata"]["name"]
        self.name = f"{self.job}-{index}-{uuid.uuid4().hex[:5]}"
        self.labels = template["metadata"]["labels"]
        self.log = folder / f"{self.name}.log"
        self.reason = ""
        self.deleted = self.stranded = False
        self.grace = template["spec"].get("terminationGracePeriodSeconds", 30)
        (container,) = template["spec"]["containers"]
        self.container = container["name"]
        given = {entry["name"]: entry.get("value", "") for entry in container["env"]}  # an API server drops empty ones
        given |= {"REGRAFT_MASTER": "127.0.0.1", "REGRAFT_MASTER_PORT": str(port), "JOB_COMPLETION_INDEX": str(index)}
        given["REGRAFT_CACHE_FOLDER"] = str(folder / self.name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REGRAFT_")}
        self._command, self._environment = container["command"], {**kept, **given}
        self.process: subprocess.Popen[bytes] | None = None
        self.log.touch()
        self._writer = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        """It has a node, and runs there; once."""
        if self.process is None:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._writer.start()

    def strand(self) -> None:
        """Its node is gone without a word: nothing of it runs, and the API server knows nothing of that."""
        self.kill()
        self.stranded = True

    def terminate(self) -> None:
        """SIGTERM, if it runs."""
        self.deleted = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def _write(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        with self.log.open("ab", buffering=0) as file, self.process.stdout as stream:
            for line in stream:
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
                file.write(f"{now} ".encode() + line)

    @property
    def phase(self) -> str:
        if self.stranded:
            return "Running"
        if self.process is None:
            return "Pending"
        code = self.process.poll()
        if code is None or self._writer.is_alive():
            return "Running"
        return "Succeeded" if code == 0 and not self.reason else "Failed"

    def lines(self, *, since: str, follow: Callable[[], bool]) -> Iterator[bytes]:
        """Its output from a time on, and what comes after for as long as `follow` says."""
        since = since[:19]  # whole seconds, as the kubelet counts them
        with self.log.open("rb") as file:
            rest = b""
            while True:
                running = self.phase == "Running"
                *lines, rest = (rest + file.read()).split(b"\n")
                yield from (line + b"\n" for line in lines if line[:19].decode() >= since)
                if not running or not follow():
                    return
                time.sleep(0.05)

    def kill(self) -> None:
        """With all that it has started."""
        if self.process is None:
            return
        for member in _session(self.process.pid):
            os.kill(member, signal.SIGKILL)
        self.process.wait()
        self._writer.join()

    def shown(self) -> Json:
        annotations = {"batch.kubernetes.io/job-completion-index": str(self.index)}
        metadata: Json = {"name": self.name, "labels": self.labels, "annotations": annotations}
        if self.deleted:
            metadata |= {"deletionTimestamp": "now", "deletionGracePeriodSeconds": self.grace}
        if self.process is None:
            return {"metadata": metadata, "status": {"phase": "Pending", "conditions": [_UNSCHEDULED]}}
        ended = self.phase in ("Succeeded", "Failed")
        code = self.process.returncode
        state: Json = {"running": {}}
        if ended:
            state = {
                "terminated": {
                    "exitCode": code if code >= 0 else 128 - code,
                    "reason": "Error" if code else "Completed",
                }
            }
        status: Json = {"phase": self.phase, "containerStatuses": [{"name": self.container, "state": state}]}
        if self.reason:
            lost = {"type": "DisruptionTarget", "status": "True", "reason": self.reason, "message": "node is lost"}
            status["conditions"] = [lost]
        return {"metadata": metadata, "spec": {"nodeName": f"node-{self.index}"}, "status": status}


def _session(leader: int) -> list[int]:
    """Every process of a session: what torchrun starts has groups of its own, and the same session or a child's."""
    found, parents = [leader], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]
