"""The Jobs, or TrainJobs, of stages in one namespace: found, created, taken over, watched, deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator

from regraft.errors import FencedError
from regraft_worker.kubernetes.api import MERGE, Api, ApiError, Json, query
from regraft_worker.kubernetes.objects import EPOCH, JOB, MANAGED, STAGE_ID, WATCHED, Run, service
from regraft_worker.kubernetes.options import Options
from regraft_worker.kubernetes.trainjob import TRAIN_JOB

NOT_FOUND, CONFLICT = 404, 409
ENDED = ("Succeeded", "Failed")
"""Phases of pods."""
_WATCH_SECONDS = 30
_TRIES = 5
_INDEX = "batch.kubernetes.io/job-completion-index"


class Cluster:
    """One namespace."""

    def __init__(self, options: Options) -> None:
        self._api, self._options = Api(options), options
        self._kind = TRAIN_JOB if options.runtime else JOB
        self._jobs = self._kind.path.format(options.namespace)
        self._core = f"/api/v1/namespaces/{options.namespace}"

    def jobs_of(self, stage_id: str) -> list[Json]:
        """Every Job of a stage, whichever attempt made it."""
        found = self._api.call("GET", self._jobs + query(labelSelector=f"{STAGE_ID}={stage_id}"))
        return list(found["items"])

    def jobs(self) -> list[Json]:
        """Every Job that Regraft made here, of whichever deployment."""
        name, value = next(iter(MANAGED.items()))
        found = self._api.call("GET", self._jobs + query(labelSelector=f"{name}={value}"))
        return list(found["items"])

    def job(self, name: str) -> Json | None:
        """A Job as it is now; None: there is none."""
        try:
            return self._api.call("GET", f"{self._jobs}/{name}")
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def create(self, run: Run) -> Json:
        """The objects of an attempt. Called again after a crash in between, it creates what is missing.

        Raises:
            ApiError: they are not accepted.
        """
        try:
            made = self._api.call("POST", self._jobs, self._kind.body(run, self._options))
        except ApiError as error:
            made = self.job(run.name) if error.status == CONFLICT else None
            if made is None:
                raise
        self.ensure_service(run, made)
        return made

    def ensure_service(self, run: Run, owner: Json) -> None:
        """The Service of a Job with several pods."""
        if run.nodes == 1 or self._kind.names_pods:
            return
        try:
            self._api.call("POST", f"{self._core}/services", service(run, owner))
        except ApiError as error:
            if error.status != CONFLICT:
                raise

    def take_over(self, found: Json, epoch: int) -> Json:
        """Make a Job this attempt's, unless a later one has it.

        Raises:
            FencedError: a later attempt has it, or it is gone.
        """
        name, now = found["metadata"]["name"], found
        for _ in range(_TRIES):
            if epoch_of(now) > epoch:
                raise FencedError("a later attempt watches this Job", value=name)
            guard = {"resourceVersion": now["metadata"]["resourceVersion"]}
            try:
                return self._mark(found, {"labels": {EPOCH: str(epoch)}, **guard})
            except ApiError as error:
                latest = self.job(name) if error.status == CONFLICT else None
                if latest is None:
                    raise
                now = latest  # its status has changed meanwhile, or its owner
        raise FencedError("the Job keeps changing", value=name)

    def watched(self, found: Json, until: str) -> None:
        """Note up to when the output of a Job's pods was read."""
        self._mark(found, {"annotations": {WATCHED: until}})

    def _mark(self, found: Json, change: Json) -> Json:
        metadata = found["metadata"]
        body = {"metadata": {**change, "uid": metadata["uid"]}}
        return self._api.call("PATCH", f"{self._jobs}/{metadata['name']}", body, kind=MERGE)

    def delete(self, found: Json, *, if_unchanged: bool = False) -> None:
        """Ask for its end: its pods are told to stop and have their grace period; the Job is gone after them.

        With `if_unchanged` not when it has changed since it was found, as by an attempt that took it over.
        """
        guards = ("uid", "resourceVersion") if if_unchanged else ("uid",)
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {name: found["metadata"][name] for name in guards},
        }
        try:
            self._api.call("DELETE", f"{self._jobs}/{found['metadata']['name']}", options)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):  # it is gone, or another one has its name by now
                raise

    def is_gone(self, found: Json) -> bool:
        """Whether a Job, and so every pod of it, is no more."""
        now = self.job(found["metadata"]["name"])
        return now is None or now["metadata"]["uid"] != found["metadata"]["uid"]

    def changes(self, name: str) -> Iterator[Json | None]:
        """A Job at each change, from how it is now; None: it was deleted. Ends after half a minute: ask again."""
        found = self.job(name)
        yield found
        if found is None:
            return
        wanted = query(
            watch="true",
            fieldSelector=f"metadata.name={name}",
            resourceVersion=found["metadata"]["resourceVersion"],
            timeoutSeconds=_WATCH_SECONDS,
        )
        for line in self._api.lines(self._jobs + wanted, seconds=2 * _WATCH_SECONDS):
            event = json.loads(line)
            if event["type"] == "ERROR":  # too old: begin again
                return
            yield None if event["type"] == "DELETED" else event["object"]

    def pods(self, name: str) -> list[Json]:
        """The pods of a Job, in their order."""
        found = self._api.call("GET", f"{self._core}/pods" + query(labelSelector=self._kind.pods.format(name)))
        return sorted(found["items"], key=index_of)

    def log(self, pod: str, *, since: str = "", follow: bool = True) -> Iterator[bytes]:
        """A pod's output, each line after its time; from `since` on, as it comes if `follow`."""
        wanted = {"timestamps": "true", "container": self._kind.container, "follow": str(follow).lower()}
        if since:
            wanted["sinceTime"] = since
        return self._api.lines(f"{self._core}/pods/{pod}/log{query(**wanted)}", seconds=10.0)


def epoch_of(found: Json) -> int:
    """The attempt a Job belongs to."""
    return int(found["metadata"]["labels"][EPOCH])


def index_of(pod: Json) -> int:
    """Which of a Job's pods it is."""
    return int(pod["metadata"].get("annotations", {}).get(_INDEX, 0))


def phase_of(pod: Json) -> str:
    """`Pending`, `Running`, or one of `ENDED`."""
    return str(pod.get("status", {}).get("phase", ""))


def condition(found: Json, kind: str) -> Json | None:
    """A condition that holds."""
    conditions = found.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)
