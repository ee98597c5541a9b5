"""A deployment made of real processes, as the tests start and stop them one by one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import eventually, key_for
from regraft.client import Client, UnreachableError
from regraft.embedded import free_port
from regraft.jobs import JOB_ENDED
from regraft.localstack import Process
from regraft.settings import Settings
from regraft.storage import local_path


class Deployment:
    """Processes by name: api, dispatcher, dataprep, worker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.model_copy(update={"api_port": free_port()})
        key = key_for(settings)["Authorization"].removeprefix("Bearer ")
        self.client = Client(f"http://127.0.0.1:{self.settings.api_port}", key=key)
        self._processes: dict[str, Process] = {}

    def start(self, *names: str) -> None:
        for name in names:
            self._processes[name] = Process(name, self.settings)
            self._processes[name].start()

    @contextmanager
    def alone(self, *names: str) -> Iterator[Deployment]:
        """Only these processes, for as long as the block lasts."""
        try:
            self.start(*names)
            yield self
        finally:
            self.stop()

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        process = self._processes[name]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(time.monotonic() + 10)

    def terminate(self, name: str) -> None:
        """SIGTERM, and wait for its end."""
        process = self._processes[name]
        process.terminate()
        process.wait(time.monotonic() + 30)

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(time.monotonic() + 30)
        self.client.__exit__()

    def submit(self, job: dict[str, Any]) -> str:
        return str(self.client.create_job(job)["id"])

    def stage(self, job_id: str, name: str) -> dict[str, Any]:
        return next(stage for stage in self.client.get_job(job_id)["stages"] if stage["name"] == name)

    def await_stage(self, job_id: str, name: str, *statuses: str, seconds: float = 90) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            stage = self.stage(job_id, name)
            return stage if stage["status"] in statuses else None

        found: dict[str, Any] = eventually(reached, seconds=seconds, what=f"{name} becoming {statuses}")
        return found

    def await_end(self, job_id: str, *, seconds: float = 240) -> dict[str, Any]:
        ended = {str(status) for status in JOB_ENDED}

        def reached() -> dict[str, Any] | None:
            job = self.client.get_job(job_id)
            return job if job["status"] in ended else None

        found: dict[str, Any] = eventually(reached, seconds=seconds, what="the end of the job")
        return found

    def losses(self, job_id: str) -> dict[int, float]:
        """Step to training loss."""
        page = self.client.metrics(job_id, name=["train_loss"], limit=1000)
        return {point["step"]: point["value"] for point in page["data"]}


@contextmanager
def deployment(settings: Settings, *names: str) -> Iterator[Deployment]:
    """Start the named processes, wait for the API if it is among them, stop all of them at the end."""
    running = Deployment(settings)
    try:
        running.start(*names)
        if "api" in names:
            eventually(lambda: answers(running.client), seconds=60, what="the API answering")
        yield running
    finally:
        running.stop()


def answers(client: Client) -> bool:
    """Whether the API can be talked to."""
    try:
        client.list_jobs(limit=1)
    except UnreachableError:
        return False
    return True


def files_of(uri: str) -> Path:
    """The folder of an artifact."""
    return local_path(uri)
