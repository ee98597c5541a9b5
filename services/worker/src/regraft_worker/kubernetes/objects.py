"""What is created for a stage: an Indexed Job, and a headless Service by which its pods find the first one. Pure.

Where an operator has named a runtime of Kubeflow's Trainer, a TrainJob is created instead: `trainjob`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from regraft.specs import EvaluateTask, Spec, TrainTask
from regraft_worker.kubernetes.options import CONTAINER, Options

Json = dict[str, Any]

STAGE_ID, EPOCH, RUN, DIGEST = "regraft.dev/stage-id", "regraft.dev/epoch", "regraft.dev/run", "regraft.dev/digest"
WATCHED = "regraft.dev/watched-at"
"""Annotation: the time up to which the pods' output has been read."""
MANAGED = {"app.kubernetes.io/name": "regraft-training", "app.kubernetes.io/managed-by": "regraft"}
QUEUE = "kueue.x-k8s.io/queue-name"
PORT = 29500
KEPT_SECONDS = 3600
"""Finished Jobs, with their pods' logs."""
COMMAND = ("python", "-m", "regraft_worker.kubernetes.pod")
_TASKS: Mapping[str, type[Spec]] = {"train": TrainTask, "evaluate": EvaluateTask}
_WHO_ASKS = {"attempt", "priority"}
"""Fields of a task that change with each attempt, or while it runs, and nothing of what is computed."""
_PASSED = re.compile("REGRAFT_(STORAGE_URI|CACHE_BYTES|EPOCH|LOG_LEVEL)$")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of object that a stage may become."""

    path: str
    """Of its objects, with a place for the namespace."""
    body: Callable[[Run, Options], Json]
    pods: str
    """Selector of the pods of one, with a place for its name."""
    container: str
    """In which the stage runs."""
    names_pods: bool
    """Whether its controller makes the Service by which pods find each other."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt of a stage, as the cluster sees it."""

    stage: str
    stage_id: str
    epoch: int
    task: str
    """JSON, for the devices of one pod."""
    nodes: int
    devices: int
    environment: Mapping[str, str]
    """The worker's."""
    taken_over: str = ""
    """Name of an earlier attempt's Job, when that goes on."""

    @property
    def name(self) -> str:
        """Of its objects; a label of DNS with room for the pod's number."""
        if self.taken_over:
            return self.taken_over
        plain = re.sub("[^a-z0-9-]+", "-", self.stage_id.lower()).strip("-")
        return f"{plain[:40].rstrip('-')}-{self.epoch}"

    @property
    def digest(self) -> str:
        """The same for attempts that would compute the same: one may take the other's Job over.

        Fields that have their default are left out, so that a version with a new one takes over what runs.
        """
        task = _TASKS[self.stage].model_validate_json(self.task)
        asked = task.model_dump(mode="json", exclude=_WHO_ASKS, exclude_defaults=True)
        said = [self.stage, asked, self.nodes, self.devices]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def job(run: Run, options: Options) -> Json:
    """The Job. No pod is tried again by Kubernetes: a retry is the control plane's, from the newest checkpoint."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(run, options),
        "spec": {
            "completionMode": "Indexed",
            "completions": run.nodes,
            "parallelism": run.nodes,
            "backoffLimit": 0,
            "suspend": bool(options.queue),
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": _template(run, options),
        },
    }


JOB = Kind(path="/apis/batch/v1/namespaces/{}/jobs", body=job, pods=RUN + "={}", container=CONTAINER, names_pods=False)


def metadata(run: Run, options: Options) -> Json:
    """By which an attempt is found, taken over and queued."""
    labels = {**MANAGED, STAGE_ID: run.stage_id, EPOCH: str(run.epoch), RUN: run.name}
    if options.queue:
        labels[QUEUE] = options.queue
    return {"name": run.name, "labels": labels, "annotations": {DIGEST: run.digest}}


def service(run: Run, owner: Json) -> Json:
    """Names for the pods, from the moment they start; deleted with the Job."""
    known = owner["metadata"]
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": known["name"], "uid": known["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": run.name, "labels": {**MANAGED, RUN: run.name}, "ownerReferences": [reference]},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {RUN: run.name},
            "ports": [{"name": "rendezvous", "port": PORT, "protocol": "TCP"}],
        },
    }


def _template(run: Run, options: Options) -> Json:
    template = copy.deepcopy(options.template())
    known, spec = template.setdefault("metadata", {}), template["spec"]
    known["labels"] = {**known.get("labels", {}), **MANAGED, STAGE_ID: run.stage_id, RUN: run.name}
    spec["restartPolicy"] = "Never"
    spec["subdomain"] = run.name
    spec.setdefault("terminationGracePeriodSeconds", int(float(run.environment.get("REGRAFT_STOP_SECONDS", "120"))))
    spec.setdefault("automountServiceAccountToken", False)  # nothing in there talks to the cluster
    container = next(container for container in spec["containers"] if container["name"] == CONTAINER)
    container.setdefault("command", list(COMMAND))
    ours = environment(run, first=f"{run.name}-0.{run.name}")
    named = {entry["name"] for entry in container.get("env", [])}
    added = [{"name": name, "value": value} for name, value in ours.items() if name not in named]
    container["env"] = [*container.get("env", []), *added]
    return template


def environment(run: Run, *, first: str) -> dict[str, str]:
    """What a pod is told, `first` being the host of the first one. Its number it has of the Job.

    The template's own entries go before, e.g. for credentials.
    """
    passed = {name: value for name, value in run.environment.items() if _PASSED.fullmatch(name)}
    return {
        **passed,
        "REGRAFT_EPOCH": str(run.epoch),
        "REGRAFT_STAGE": run.stage,
        "REGRAFT_TASK": run.task,
        "REGRAFT_NODES": str(run.nodes),
        "REGRAFT_MASTER": first,
        "REGRAFT_MASTER_PORT": str(PORT),
    }
