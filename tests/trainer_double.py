"""Kubeflow's Trainer as far as a TrainJob of ours needs it: its definition, and what its controller makes of one.

The fields are those of `trainer.kubeflow.org/v1alpha1`, of which only the ones that we use, and some beside them, stand
here; a field that Trainer does not have is refused. The real controller goes by way of a JobSet, which is left out: its
labels, and the name that it gives the Job, are what others rely on.
"""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


def _fields(required: str = "", **properties: Any) -> Json:
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required.split()} if required else found


_ENTRY = _fields("name", name=TEXT, value=TEXT)
SPEC = _fields(
    "runtimeRef",
    runtimeRef=_fields(
        "name",
        name={**TEXT, "minLength": 1},
        apiGroup=TEXT,
        kind={**TEXT, "enum": ["TrainingRuntime", "ClusterTrainingRuntime"]},
    ),
    suspend={"type": "boolean"},
    managedBy=TEXT,
    trainer=_fields(
        image=TEXT,
        command={"type": "array", "items": TEXT},
        args={"type": "array", "items": TEXT},
        env={"type": "array", "items": _ENTRY},
        numNodes=NUMBER,
    ),
)
SCHEMA = _fields(
    "apiVersion kind metadata spec",
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata={"type": "object"},
    spec=SPEC,
)


def definition() -> Json:
    """The CustomResourceDefinition, for a real API server: that drops unknown fields instead of refusing them."""
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": _structural(SPEC), "status": status}}
    version = {"name": "v1alpha1", "served": True, "storage": True, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "trainjobs.trainer.kubeflow.org"},
        "spec": {
            "group": "trainer.kubeflow.org",
            "scope": "Namespaced",
            "names": {"plural": "trainjobs", "singular": "trainjob", "kind": "TrainJob", "listKind": "TrainJobList"},
            "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def child(train_job: Json, template: Json) -> Json:
    """The Job that comes of a TrainJob, with the pod template of its runtime's replicated job `node`."""
    name, trainer = train_job["metadata"]["name"], train_job["spec"]["trainer"]
    made = copy.deepcopy(template)
    labels = {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": "node"}
    made["metadata"] = {"labels": {**made.get("metadata", {}).get("labels", {}), **labels}}
    (container,) = made["spec"]["containers"]
    assert container["name"] == "node"
    told = {entry["name"]: entry for entry in [*container.get("env", []), *trainer["env"]]}  # the TrainJob's prevail
    container["env"], container["command"] = list(told.values()), trainer["command"]
    owner = {"apiVersion": train_job["apiVersion"], "kind": "TrainJob", "name": name, "blockOwnerDeletion": True}
    reference = {**owner, "uid": train_job["metadata"]["uid"], "controller": True}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-node-0", "ownerReferences": [reference]},
        "spec": {
            "completionMode": "Indexed",
            "completions": trainer["numNodes"],
            "parallelism": trainer["numNodes"],
            "backoffLimit": 0,
            "template": made,
        },
    }


def _structural(schema: Json) -> Json:
    kept = {key: value for key, value in schema.items() if key != "additionalProperties"}
    if "properties" in kept:
        kept["properties"] = {name: _structural(one) for name, one in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = _structural(kept["items"])
    return kept
