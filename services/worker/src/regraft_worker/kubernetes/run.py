"""A stage on the cluster, from the worker's side: its Job is created or taken over, watched, stopped, and judged.

The worker computes nothing and its end ends nothing: a Job goes on when its worker restarts, and whoever gets the
stage next finds it by its labels and takes it over, if it computes the same. At no time are there two Jobs of a stage:
one that is not taken over is deleted first, and is gone before another is created. An API server that does not answer
is borne for as long as it takes; what runs is not touched for that. A first pod that can be read and tells nothing for
as long as a stage process may be silent is hung: its Job is deleted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from regraft.errors import FencedError, InterruptedStageError, RegraftError
from regraft.jobs import ReasonClass
from regraft.ports import Progress
from regraft_worker.kubernetes.api import ApiError, Json, UnreachableError
from regraft_worker.kubernetes.cluster import Cluster, condition, epoch_of
from regraft_worker.kubernetes.ending import Ending, Late
from regraft_worker.kubernetes.objects import DIGEST, WATCHED, Run
from regraft_worker.kubernetes.options import PREFIX, Options
from regraft_worker.kubernetes.output import Output, said
from regraft_worker.launch import RankError, say

_LAST = ("result", "error", "stopped")
_LOOK_SECONDS = 0.5
_NOTE_SECONDS = 10.0
_READ_OUT_SECONDS = 30.0
_PENDING_AFTER = 10.0


class LostError(RegraftError):
    """The pods ended without a word: a node is gone, memory was short, somebody deleted them."""

    reason = "pod_lost"
    reason_class = ReasonClass.INFRASTRUCTURE


class HungError(RegraftError):
    """The first pod runs, and reports nothing for too long."""

    reason = "no_progress"
    reason_class = ReasonClass.INFRASTRUCTURE


def run(stage: str, task: str, *, devices: int, progress: Progress, options: Options) -> dict[str, Any]:
    """Run a stage with a task for the devices of one node, on so many devices in all; returns its result.

    Raises:
        InvalidInputError: the cluster has not that many devices.
        RegraftError: as the core; `pod_lost` when the pods ended without a word, `no_progress` when they hang.
        InterruptedStageError: asked to stop, and the pods have; or to leave, and they go on.
    """
    nodes, each = options.nodes_for(devices)
    wanted = Run(
        stage=stage,
        stage_id=os.environ.get("REGRAFT_ATTEMPT", "").partition(":")[0] or f"local-{os.getpid()}",
        epoch=int(os.environ.get("REGRAFT_EPOCH", "0")),
        task=task,
        nodes=nodes,
        devices=each,
        environment=os.environ,
    )
    cluster = Cluster(options)
    return _Watched(cluster, _job_for(cluster, wanted, progress), wanted, progress).to_the_end()


def _job_for(cluster: Cluster, wanted: Run, progress: Progress) -> Json:
    """That of an attempt before, if it would compute the same and has not failed; else a new one, after its end."""
    for found in cluster.jobs_of(wanted.stage_id):
        name, metadata = found["metadata"]["name"], found["metadata"]
        same = metadata.get("annotations", {}).get(DIGEST) == wanted.digest
        if same and not _has_failed(found) and "deletionTimestamp" not in metadata:
            progress.event(f"the Job {name} of an earlier attempt goes on and is taken over", data={"job": name})
            taken = cluster.take_over(found, wanted.epoch)
            cluster.ensure_service(replace(wanted, taken_over=name), taken)
            return taken
        taken = cluster.take_over(found, wanted.epoch)
        Ending(cluster, taken, progress).wait()
    made = cluster.create(wanted)
    where = f"{wanted.nodes} pods with {wanted.devices} devices each"
    progress.event(f"the Job {wanted.name} was created: {where}", data={"job": wanted.name, "nodes": wanted.nodes})
    return made


class _Watched:
    """A Job under the eyes of this process."""

    def __init__(self, cluster: Cluster, job: Json, wanted: Run, progress: Progress) -> None:
        self._cluster, self._progress, self._wanted = cluster, progress, wanted
        self._job: Json | None = job
        self._made, self._name = job, job["metadata"]["name"]
        self._last: dict[str, Any] | None = None
        self._told: str | None = None
        self._hang_seconds = float(wanted.environment.get("REGRAFT_HANG_SECONDS", "1800"))
        self._noted = self._began = time.monotonic()
        self._over = threading.Event()
        self._late = Late(cluster, self._name, progress)
        self._handed_on: str = job["metadata"].get("annotations", {}).get(WATCHED, "")
        self._output = Output(cluster, self._name, since=self._handed_on)
        threading.Thread(target=self._watch, name="job-watch", daemon=True).start()

    def to_the_end(self) -> dict[str, Any]:
        try:
            while True:
                self._relay()
                job = self._job
                if job is None:
                    raise LostError(
                        "somebody deleted the Job", value=self._name, remedy="A further attempt makes it anew."
                    )
                if epoch_of(job) > self._wanted.epoch:
                    raise FencedError("a later attempt watches this Job", value=self._name)
                if condition(job, "Complete") or condition(job, "Failed"):
                    return self._ended(job)
                if self._progress.should_stop():
                    return self._stopped()
                self._end_if_hung()
                self._say_what_it_waits_for(job)
                self._say_what_holds_it(job)
                self._note()
        finally:
            self._over.set()
            self._output.stop()

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                for job in self._cluster.changes(self._name):
                    same = job is not None and job["metadata"]["uid"] == self._made["metadata"]["uid"]
                    self._job = job if same else None
                    if self._over.is_set() or not same:
                        return
            except (UnreachableError, ApiError) as error:
                self._tell(f"the Job is out of sight, and goes on: {error.message}")
                self._over.wait(_LOOK_SECONDS)

    def _relay(self) -> None:
        for at, line in self._output.take(seconds=_LOOK_SECONDS):
            kind = line.pop("type")
            if kind in _LAST:
                self._last = {"type": kind, **line}  # kept until the Job ends: whoever leaves before has not told it
            else:
                say(self._progress, kind, line)
                self._handed_on = at

    def _read_out(self) -> None:
        self._output.finish()
        deadline = time.monotonic() + _READ_OUT_SECONDS
        while not self._output.is_over and time.monotonic() < deadline:
            self._relay()
        self._relay()

    def _ended(self, job: Json) -> dict[str, Any]:
        self._read_out()
        last = self._last
        if last is not None and last["type"] == "result" and condition(job, "Complete"):
            result: dict[str, Any] = last["result"]
            return result
        error = last if last is not None and last["type"] == "error" else self._error_of_others()
        if error is not None:
            raise RankError(error)
        raise self._lost(job)

    def _error_of_others(self) -> dict[str, Any] | None:
        """Another pod may have said what was wrong, where the first only saw it vanish."""
        for pod in self._cluster.pods(self._name)[1:]:
            try:
                lines = [line.decode(errors="replace").partition(" ")[2] for line in self._log_of(pod)]
            except RegraftError:
                continue  # its node is gone
            for line in filter(None, map(said, lines)):
                if line["type"] == "error":
                    return line
        return None

    def _log_of(self, pod: Json) -> list[bytes]:
        return list(self._cluster.log(pod["metadata"]["name"], follow=False))

    def _lost(self, job: Json) -> RegraftError:
        ends = [end for pod in self._cluster.pods(self._name) for end in _ends_of(pod)]
        failed = condition(job, "Failed") or {}
        why = "; ".join(ends) or failed.get("message") or "there is no pod any more"
        message = f"the pods ended without a word: {why}"
        if any("OOMKilled" in end for end in ends):
            return _OutOfMemoryError(message, value=self._name, remedy="Give the pods more memory, or the job fewer.")
        return LostError(message, value=self._name, remedy="The run goes on from its newest checkpoint.")

    def _stopped(self) -> dict[str, Any]:
        """The pods save and end; or go on, when only this worker leaves."""
        if self._progress.may_leave():
            self._note(at_once=True)
            raise InterruptedStageError("the worker leaves, the Job goes on; whoever comes next takes it over")
        ending = Ending(self._cluster, self._made, self._progress)
        while not ending.is_over():
            self._relay()
        self._relay()
        last = self._last
        if last is not None and last["type"] == "result":
            result: dict[str, Any] = last["result"]
            return result
        raise InterruptedStageError("stopped; calling again goes on from the newest checkpoint")

    def _end_if_hung(self) -> None:
        """This process says that it is alive for as long as it watches, so nobody else would notice."""
        if self._output.silent_seconds < self._hang_seconds:
            return
        Ending(self._cluster, self._made, self._progress).wait()
        raise HungError(
            f"the first pod reported no progress for {self._hang_seconds:.0f} s; its Job was deleted",
            value=self._name,
            remedy="The run goes on from its newest checkpoint.",
        )

    def _say_what_it_waits_for(self, job: Json) -> None:
        if self._output.until or time.monotonic() - self._began < _PENDING_AFTER:
            return
        self._began = time.monotonic()
        if job["spec"].get("suspend"):
            self._tell("the Job is suspended: it waits in its queue")
            return
        try:
            waits = [text for pod in self._cluster.pods(self._name) for text in _waits_of(pod)]
        except (UnreachableError, ApiError):
            return
        if waits:
            self._tell(f"a pod waits: {waits[0]}")

    def _say_what_holds_it(self, job: Json) -> None:
        """From 1.31 on a Job that fails has failed only once the last of its pods has ended."""
        if not _has_failed(job):
            return
        try:
            self._late.look()
        except (UnreachableError, ApiError):
            return

    def _tell(self, text: str) -> None:
        if text != self._told:  # once, until something else is to be said
            self._told = text
            self._progress.event(text, level="warn", data={"job": self._name})

    def _note(self, *, at_once: bool = False) -> None:
        """For whoever takes the Job over: up to where its output has been handed on, not where it has been read."""
        if not self._handed_on or not (at_once or time.monotonic() - self._noted > _NOTE_SECONDS):
            return
        self._noted = time.monotonic()
        try:
            self._cluster.watched(self._made, self._handed_on)
        except (UnreachableError, ApiError) as error:
            self._tell(f"the Job cannot be marked: {error.message}")


def _has_failed(job: Json) -> bool:
    """Or will have, once its last pod has ended."""
    return any(condition(job, kind) for kind in ("Failed", "FailureTarget"))


class _OutOfMemoryError(LostError):
    reason = "out_of_memory"
    reason_class = ReasonClass.CAPACITY


def _ends_of(pod: Json) -> list[str]:
    """How a pod's containers ended, and what befell the pod."""
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    found = [f"{name}: {status['reason']}"] if status.get("reason") else []
    for one in status.get("conditions") or []:
        if one["type"] == "DisruptionTarget" and one["status"] == "True":
            found.append(f"{name}: {one.get('reason')}: {one.get('message', '')}")
    for container in status.get("containerStatuses") or []:
        end = container.get("state", {}).get("terminated")
        if end and end.get("exitCode"):
            found.append(f"{name}: {end.get('reason', 'Error')}, exit status {end['exitCode']}")
    return found


def _waits_of(pod: Json) -> list[str]:
    """Why a pod has not started."""
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    unscheduled = [
        f"{name}: {one.get('message', one.get('reason'))}"
        for one in status.get("conditions") or []
        if one["type"] == "PodScheduled" and one["status"] == "False"
    ]
    waiting = [container.get("state", {}).get("waiting") for container in status.get("containerStatuses") or []]
    return unscheduled + [f"{name}: {w.get('reason')} {w.get('message', '')}".strip() for w in waiting if w]


def environment_of(environment: Mapping[str, str]) -> Options | None:
    """The options, where an operator has set them."""
    offered = any(environment.get(PREFIX + name) for name in ("POD", "RUNTIME"))
    return Options.of(environment) if offered else None
