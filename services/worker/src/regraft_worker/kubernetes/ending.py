"""The end of a Job: asked for, waited for, and told of when a pod does not go.

A pod whose node is lost stays, terminating, until its Node object goes or somebody forces it away: only the kubelet can
say that its processes have ended. No other Job of the stage is made before, for both could write. The price is that
somebody has to look, and so the stage says for which pod on which node it waits, and what ends that.
"""

from __future__ import annotations

import time
from contextlib import suppress

from regraft.ports import Progress
from regraft_worker.kubernetes.api import Json, UnreachableError
from regraft_worker.kubernetes.cluster import ENDED, Cluster, phase_of

REASON = "pod_terminating"
"""Of the condition that the stage is in meanwhile."""
POLL_SECONDS = 0.5
_LATE_SECONDS = 60.0
"""After a pod's grace period; a kubelet that is there has ended it by then."""
_LOOK_SECONDS = 5.0
_GRACE_SECONDS = 30
"""Kubernetes' own default."""


class Late:
    """Tells of a Job's pods that should have ended and have not."""

    def __init__(self, cluster: Cluster, name: str, progress: Progress) -> None:
        self._cluster, self._name, self._progress = cluster, name, progress
        self._seen: dict[str, float] = {}
        self._told: list[str] = []
        self._next = 0.0

    def look(self) -> None:
        """Now and then, so that it may be called often.

        Raises:
            UnreachableError, ApiError: the API server does not answer, or refuses.
        """
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + _LOOK_SECONDS
        ending = [pod for pod in self._cluster.pods(self._name) if _is_ending(pod)]
        late = [pod for pod in ending if now > self._seen.setdefault(pod["metadata"]["name"], now) + _allowed(pod)]
        names = [pod["metadata"]["name"] for pod in late]
        if late and names != self._told:
            self._told = names
            self._tell(late)

    def _tell(self, late: list[Json]) -> None:
        pods = ", ".join(f"{pod['metadata']['name']} on {_node_of(pod)}" for pod in late)
        text = (
            f"the Job {self._name} does not end: pods are still there long after their grace period: {pods}. "
            "If the node is lost, delete its Node object or give it the taint node.kubernetes.io/out-of-service; "
            "`kubectl delete pod --force` only where nothing of the pod can run any more"
        )
        said = {"job": self._name, "pods": [pod["metadata"]["name"] for pod in late], "nodes": [*map(_node_of, late)]}
        self._progress.event(text, level="warn", data=said)
        self._progress.condition(REASON, text)


class Ending:
    """Of one Job. An API server that does not answer is borne for as long as it takes."""

    def __init__(self, cluster: Cluster, job: Json, progress: Progress) -> None:
        self._cluster, self._job, self._progress = cluster, job, progress
        self._late = Late(cluster, job["metadata"]["name"], progress)
        self._asked = False

    def is_over(self) -> bool:
        """Whether nothing of it is left; asks for its end the first time, and says that this process lives.

        Raises:
            ApiError: the API server refuses.
        """
        self._progress.should_stop()
        with suppress(UnreachableError):  # asked again
            if not self._asked:
                self._cluster.delete(self._job)
                self._asked = True
            if self._cluster.is_gone(self._job):
                return True
            self._late.look()
        return False

    def wait(self) -> None:
        """Until it is over."""
        while not self.is_over():
            time.sleep(POLL_SECONDS)


def _is_ending(pod: Json) -> bool:
    """One that has ended already waits for the Job's controller, and that only for the others."""
    return "deletionTimestamp" in pod["metadata"] and phase_of(pod) not in ENDED


def _allowed(pod: Json) -> float:
    """Seconds that a pod may take from the moment that it was told to end."""
    grace = pod["metadata"].get("deletionGracePeriodSeconds")
    if grace is None:
        grace = pod.get("spec", {}).get("terminationGracePeriodSeconds", _GRACE_SECONDS)
    return float(grace) + _LATE_SECONDS


def _node_of(pod: Json) -> str:
    return str(pod.get("spec", {}).get("nodeName", "no node"))
