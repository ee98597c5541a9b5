"""Stage processes whose stage runs on a Kubernetes cluster, as a supervisor starts them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_runs import task

from helpers import eventually

POD: dict[str, Any] = {
    "metadata": {"labels": {"team": "news"}},
    "spec": {
        "nodeSelector": {"gpu": "h100"},
        "containers": [
            {
                "name": "regraft",
                "image": "registry.example.com/regraft-worker:1",
                "command": [sys.executable, "-m", "regraft_worker.kubernetes.pod"],
                "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                "resources": {"limits": {"nvidia.com/gpu": 8}},
            }
        ],
    },
}
TASK = json.dumps(
    {
        "dataset_uri": "/data",
        "checkpoint_uri": "/base",
        "training": {"max_steps": 1, "batch_size": 1},
        "target": {"kind": "cpu"},
        "output_uri": "/out",
    }
)
"""The least that a training is told."""
LONG: dict[str, Any] = {
    "max_steps": 100_000,
    "schedule": [{"constant": {"value": 1e-3}}],
    "evaluate": {"every_steps": None},
    "checkpoint": {"every_steps": 50, "keep_last": 2},
}
"""Options of a training that ends when it is told to."""


def runtime() -> dict[str, Any]:
    """The template as the runtime of a TrainJob has it. The command is the TrainJob's."""
    made = copy.deepcopy(POD)
    made["spec"]["restartPolicy"] = "Never"
    made["spec"]["automountServiceAccountToken"] = False
    made["metadata"]["labels"]["app.kubernetes.io/name"] = "regraft-training"
    (container,) = made["spec"]["containers"]
    container["name"] = "node"
    # A TrainJob's command is `python`, which in the image is the right one.
    container["env"].append({"name": "PATH", "value": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    return made


class Stage:
    """A stage process, as a supervisor starts it."""

    def __init__(self, given: str, environment: dict[str, str], *, epoch: int) -> None:
        marks = {"REGRAFT_ATTEMPT": f"job-1.train:{epoch}:0:0", "REGRAFT_EPOCH": str(epoch)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "regraft_worker.stage", "train"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, **marks},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(given + "\n")
        self.process.stdin.flush()
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(json.loads(line) for line in lines)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == kind]

    def await_lines(self, kind: str, count: int = 1) -> None:
        def enough() -> bool:
            assert self.process.poll() is None or len(self.of(kind)) >= count, self.lines
            return len(self.of(kind)) >= count

        eventually(enough, seconds=90, what=f"{count} lines of {kind}")

    def ended(self) -> dict[str, Any]:
        self.process.wait(90)
        self._reader.join()
        return self.lines[-1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def stage(given: str, environment: dict[str, str], *, epoch: int = 1) -> Iterator[Stage]:
    started = Stage(given, environment, epoch=epoch)
    try:
        yield started
    finally:
        started.close()


def on_cluster(inputs: Path, output: str, *, devices: int = 1, **options: Any) -> str:
    given = task(inputs, Path("/nowhere"), **options).model_dump(mode="json", by_alias=True)
    return json.dumps({**given, "output_uri": output, "target": {"kind": "kubernetes", "devices": devices}})
