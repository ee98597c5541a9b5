"""What runs on a cluster for an attempt that is gone, and that nobody follows up: found by label, and ended.

A stage that is tried again ends, or takes over, what its earlier attempts left. But one that was cancelled, or that
nobody takes up for a while, has no next attempt; so every worker that offers a cluster looks now and then. Jobs of
other deployments carry names that this one does not know, and are let alone.

The trade-off: two workers may look at the same moment, and both end the same; the second finds nothing left to do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sqlalchemy import Engine

from regraft.jobs import StageStatus
from regraft.jobstore import UNREACHABLE
from regraft.jobstore.standing import standing_of
from regraft_worker.cerebras.csctl import Csctl, UnreachableError
from regraft_worker.cerebras.marks import Mark, mark_of
from regraft_worker.kubernetes import api, objects
from regraft_worker.kubernetes.cluster import Cluster, condition

log = logging.getLogger(__name__)

_NOT_ANSWERED = (UnreachableError, api.UnreachableError, api.ApiError)
_TAKEN_UP = (StageStatus.READY, StageStatus.RUNNING)


class Reconciler:
    """Sweeps a cluster from a thread of its own."""

    def __init__(self, sweep: Callable[[], object], *, seconds: float = 30.0) -> None:
        self._sweep, self._seconds = sweep, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End before the next look."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._sweep()
            except _NOT_ANSWERED as error:
                log.info("jobs of the cluster are not looked at: %s", error)
            except UNREACHABLE as error:
                log.warning("the database is unreachable, trying again: %s", error)


def sweep_cerebras(engine: Engine, csctl: Csctl) -> list[str]:
    """Cancel what nobody follows up on an appliance, whose jobs do not outlive their client; returns the ids.

    Raises:
        UnreachableError: the cluster does not answer.
    """
    gone = []
    for listed in csctl.jobs():
        mark = None if listed.ended else mark_of(listed.labels)
        if mark is None:
            continue
        found = standing_of(engine, mark.job, mark.stage)
        # Of a stage that runs, the attempt itself sees to what was left before it.
        if found is not None and found.status is not StageStatus.RUNNING and mark.epoch <= found.epoch:
            csctl.cancel(listed.id)
            log.warning("%s of %s, attempt %d, was left over and is cancelled", listed.id, mark.job, mark.epoch)
            gone.append(listed.id)
    return gone


def sweep_kubernetes(engine: Engine, cluster: Cluster) -> list[str]:
    """Delete the Jobs that no attempt will take over: their pods save and end; returns the names.

    A Job goes on without its worker, so that of a stage that is ready is left: the next attempt takes it over. One that
    has ended keeps its logs for its time; Kubernetes deletes it then, but nobody deletes a TrainJob.

    Raises:
        ApiError, UnreachableError: the API server refuses, or does not answer.
    """
    gone = []
    for job in cluster.jobs():
        if "deletionTimestamp" in job["metadata"] or _is_kept(job):
            continue
        name, mark = job["metadata"]["name"], _mark_of(job["metadata"]["labels"])
        found = None if mark is None else standing_of(engine, mark.job, mark.stage)
        if mark is None or found is None or found.status in _TAKEN_UP:
            continue
        if mark.epoch <= found.epoch:
            cluster.delete(job, if_unchanged=True)
            log.warning("the Job %s of %s, attempt %d, was left over and is deleted", name, mark.job, mark.epoch)
            gone.append(name)
    return gone


def _is_kept(job: api.Json) -> bool:
    """Whether it has ended, and not long ago."""
    ended = condition(job, "Complete") or condition(job, "Failed")
    if ended is None:
        return False
    at = ended.get("lastTransitionTime")
    return at is None or (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds() < objects.KEPT_SECONDS


def _mark_of(labels: Mapping[str, str]) -> Mark | None:
    """None: it is of no stage."""
    job, _, stage = labels.get(objects.STAGE_ID, "").rpartition(".")
    epoch = labels.get(objects.EPOCH, "")
    return Mark(job, stage, int(epoch)) if job and epoch.isdigit() else None
