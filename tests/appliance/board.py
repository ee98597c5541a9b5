"""The cluster's jobs: files in a folder, brought up to date by whoever looks.

No process runs for the cluster. A client whose heartbeat is older than the lease is taken for dead when the next
program looks, and its jobs are cancelled then: a killed client's job runs on for the length of the lease.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.control import Control

Job = dict[str, Any]
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
_RUNNING = ("SCHEDULED", "INITIALIZING", "RUNNING", "FAILING")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


class Board:
    """The jobs of one appliance."""

    def __init__(self, state: Path) -> None:
        self.control = Control(state)
        self._jobs = state / "jobs"
        self._beats = state / "beats"
        self._jobs.mkdir(parents=True, exist_ok=True)
        self._beats.mkdir(parents=True, exist_ok=True)

    def submit(self, kind: str, **fields: Any) -> str:
        """A new job of this process; its id."""
        job = f"wsjob-{new_id()}"
        self.beat(job)
        self._new(job, kind, {**fields, "client": os.getpid()})
        return job

    def plant(self, *, seconds: float, kind: str = "execute", priority: str = "p2", systems: int = 1) -> str:
        """A job of somebody else, which runs for so many seconds of the appliance's clock once it is started."""
        job = f"wsjob-{new_id()}"
        self._new(job, kind, {"priority": priority, "systems": systems, "seconds": seconds, "user": "somebody-else"})
        return job

    def beat(self, job: str) -> None:
        """The client of the job lives."""
        (self._beats / job).touch()

    def jobs(self) -> list[Job]:
        """All jobs as they are now, the oldest first."""
        with self._current() as jobs:
            return list(jobs.values())

    def job(self, job: str) -> Job | None:
        """One job as it is now."""
        with self._current() as jobs:
            return jobs.get(job)

    def end(self, job: str, phase: str, *, message: str = "") -> bool:
        """End a job that has not ended; False when it had, or is not there."""
        with self._current() as jobs:
            found = jobs.get(job)
            if found is None or found["phase"] in ENDED:
                return False
            found |= {"phase": phase, "message": message, "ended": self.control.now()}
            return True

    def change(self, job: str, **fields: Any) -> bool:
        """Set fields of a job; False when there is no such job."""
        with self._current() as jobs:
            if job not in jobs:
                return False
            jobs[job] |= fields
            return True

    def _new(self, job: str, kind: str, fields: Job) -> None:
        new = {"id": job, "kind": kind, "phase": "CREATED", "created": self.control.now(), "labels": {}, "message": ""}
        new |= {"order": time.time_ns(), "priority": "p2", "systems": 0, "user": "", "started": None, "ended": None}
        with self.control.locked():
            self._write({**new, **fields})

    @contextmanager
    def _current(self) -> Iterator[dict[str, Job]]:
        with self.control.locked():
            found = [json.loads(path.read_text()) for path in self._jobs.glob("*.json")]
            jobs = {job["id"]: job for job in sorted(found, key=lambda job: job["order"])}
            before = {name: json.dumps(job) for name, job in jobs.items()}
            self._advance(jobs)
            yield jobs
            for name, job in jobs.items():
                if json.dumps(job) != before[name]:
                    self._write(job)

    def _write(self, job: Job) -> None:
        part = self._jobs / f".{job['id']}"
        part.write_text(json.dumps(job))
        part.replace(self._jobs / f"{job['id']}.json")

    def _advance(self, jobs: dict[str, Job]) -> None:
        now, asked = self.control.now(), self.control.read()
        for job in jobs.values():
            self._end_of_itself(job, now, asked)
            if job["phase"] == "CREATED":
                job["phase"] = "QUEUED"
        free = asked["systems"] - sum(job["systems"] for job in jobs.values() if job["phase"] in _RUNNING)
        waiting = [job for job in jobs.values() if job["phase"] == "QUEUED"]
        for job in sorted(waiting, key=lambda job: (job["priority"], job["order"])):
            wait = asked["queue_seconds_of"].get(job["kind"], asked["queue_seconds"]) if "client" in job else 0.0
            if now < job["created"] + wait:
                continue
            if job["systems"] > free:
                break  # whoever is first in the queue is not overtaken
            free -= job["systems"]
            job |= {"phase": "SCHEDULED", "started": now}
        for job in jobs.values():
            self._start(job, now, asked["init_seconds"])

    @staticmethod
    def _start(job: Job, now: float, init: float) -> None:
        if job["phase"] == "SCHEDULED" and now >= job["started"] + init:
            job["phase"] = "INITIALIZING"
        if job["phase"] == "INITIALIZING" and now >= job["started"] + 2 * init:
            job["phase"] = "RUNNING"

    def _end_of_itself(self, job: Job, now: float, asked: Job) -> None:
        if job["phase"] in ENDED:
            return
        limit = job.get("time_limit")
        if "client" in job and not self._lives(job, asked["lease_seconds_real"]):
            job |= {"phase": "CANCELLED", "ended": now, "message": "lost the heartbeat of the client"}
        elif limit and now > job["workflow_began"] + limit:
            job |= {"phase": "CANCELLED", "ended": now, "message": "time limit"}
        elif job.get("seconds") is not None and job["started"] is not None and now > job["started"] + job["seconds"]:
            job |= {"phase": "SUCCEEDED", "ended": now}

    def _lives(self, job: Job, lease: float) -> bool:
        beat = self._beats / job["id"]
        return time.time() - beat.stat().st_mtime < lease


def new_id() -> str:
    """As those of the cluster: 22 small letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(22))
