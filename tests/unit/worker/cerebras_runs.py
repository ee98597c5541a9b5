"""Runs of the stage on the appliance's double, for the tests of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny_runs
from safetensors.torch import load_file

from appliance.install import Appliance, install
from regraft.cerebrassite import CerebrasSite
from regraft.ports import NullProgress
from regraft.specs import AttemptRef, CerebrasTargetSpec, TrainResult, TrainTask
from regraft.storage import local_path
from regraft_worker.cerebras.train import train


class Watched(NullProgress):
    """Remembers what was said; `when` is asked whether to stop, and may do something to the run first."""

    def __init__(self, when: Callable[[Watched], bool] = lambda said: False, *, patient: bool = False) -> None:
        self.when, self.patient = when, patient
        self.metrics: dict[str, dict[int, float]] = {}
        self.checkpoints: list[str] = []
        self.pruned: list[str] = []
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.conditions: list[tuple[str, str]] = []
        self.postponed = 0

    @property
    def reasons(self) -> list[str]:
        """Of the conditions, each once for as long as it lasted."""
        names = [reason for reason, _ in self.conditions]
        return [name for place, name in enumerate(names) if not place or names[place - 1] != name]

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, {})[step] = value

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        (self.pruned if kind == "pruned" else self.checkpoints).append(Path(uri).name)

    def event(self, message: str, *, level: Any = "info", data: Mapping[str, object] | None = None) -> None:
        self.events.append((message, data or {}))

    def condition(self, reason: str, message: str) -> None:
        self.conditions.append((reason, message))

    def should_stop(self) -> bool:
        return self.when(self)

    def postpone_stop(self, seconds: float) -> bool:
        self.postponed += self.patient
        return self.patient


def site_of(appliance: Appliance, mounts: Path, **settings: object) -> CerebrasSite:
    """A site whose cluster is the double, in a hurry."""
    found = {
        "client": str(appliance.client),
        "release": "",
        "csctl": str(appliance.csctl),
        "mgmt_address": "cluster.invalid:443",
        "mgmt_namespace": "job-operator",
        "credentials_path": str(appliance.credentials),
        "mount_dirs": str(mounts),
        "poll_seconds": 0.2,
        "settle_seconds": 0.3,
        "ask_seconds": 10.0,
        "backoff_seconds": 0.2,
        "backoff_max_seconds": 0.4,
        "interrupt_seconds": 5.0,
    }
    return CerebrasSite.model_validate({**found, **settings})


class Cluster:
    """A double, a site that names it, and inputs for a run."""

    def __init__(self, folder: Path, inputs: Path, *, release: str = "2.10", **asked: Any) -> None:
        self.inputs, self.output = inputs, folder / "run"
        self.appliance = install(folder / "appliance", release=release, **asked)
        self.site = site_of(self.appliance, Path("/"), release=release)

    def task(self, *, epoch: int = 1, **options: Any) -> TrainTask:
        given = {"evaluate": {"every_steps": 6, "at_start": False}, **options}
        made = tiny_runs.task(self.inputs, self.output, **given)
        attempt = AttemptRef(job="job-0123", stage="train", epoch=epoch)
        return made.model_copy(update={"target": CerebrasTargetSpec(kind="cerebras"), "attempt": attempt})

    def train(
        self, progress: Watched, *, epoch: int = 1, site: CerebrasSite | None = None, **options: Any
    ) -> TrainResult:
        return train(self.task(epoch=epoch, **options), progress, site=site or self.site)

    def phases(self) -> list[tuple[str, str]]:
        """Kind and phase of the cluster's jobs, the oldest first."""
        return [(job["kind"], job["phase"]) for job in self.appliance.jobs()]

    def cancels(self) -> list[str]:
        """What `csctl cancel` was called for."""
        return [words[2] for words in self.appliance.calls("cancel", "job")]

    def clients(self) -> list[int]:
        """Clients of the double that run."""
        return self.appliance.clients()


def farthest(first: str | Path, second: str | Path) -> float:
    """Largest difference between any two weights of two checkpoints."""
    one, other = (load_file(_folder(where) / "model.safetensors") for where in (first, second))
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def _folder(where: str | Path) -> Path:
    return where if isinstance(where, Path) else local_path(where)


def soon(is_so: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)
