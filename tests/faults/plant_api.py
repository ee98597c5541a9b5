"""The API of a plant as a process to break, and a client that asks again, as clients should."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from plant import STEPS, Plant

from helpers import eventually, key_for, spec
from regraft.embedded import free_port
from regraft.settings import Settings

PROGRAM = str(Path(__file__).with_name("fault_api.py"))


class Api:
    """Always at the same address, however often it is started."""

    def __init__(self, plant: Plant, settings: Settings, port: int, environment: dict[str, str]) -> None:
        self._plant, self._environment = plant, environment
        self._settings = settings.model_copy(update={"api_port": port, "check_files": False})
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key_for(plant.settings), timeout=30)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Once more, too; returns when it answers."""
        self.process = self._plant.spawn("api", [PROGRAM], self._settings, **self._environment)
        eventually(self._answers, what="the API answering")
        return self.process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return self.client.get("/healthz").is_success
        except httpx.TransportError:
            return False

    def post(self, key: str, *, steps: int = STEPS) -> httpx.Response | None:
        """Ask for a job, once; None: the connection ended without an answer."""
        try:
            return self.client.post("/jobs", json=job_of(steps), headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return None

    def create(self, key: str, *, steps: int = STEPS) -> str:
        """Ask until the job is accepted; its id."""

        def accepted() -> str | None:
            response = self.post(key, steps=steps)
            if response is None or response.status_code == 503:
                return None
            assert response.status_code == 202, response.text
            return str(response.json()["id"])

        found: str = eventually(accepted, what="the job being accepted")
        return found


def job_of(steps: int) -> dict[str, Any]:
    """As a client sends it."""
    return spec(training={"max_steps": steps, "batch_size": 8}).model_dump(mode="json", by_alias=True)


@contextmanager
def api_of(
    plant: Plant, *, settings: Settings | None = None, port: int | None = None, **environment: str
) -> Iterator[Api]:
    """An API on the plant's database, or with other `settings`; killed at the end."""
    api = Api(plant, settings or plant.settings, port or free_port(), environment)
    try:
        yield api
    finally:
        api.client.close()
        api.kill()
