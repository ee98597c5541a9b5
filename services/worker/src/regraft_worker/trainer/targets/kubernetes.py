"""Nodes of a Kubernetes cluster: a stage runs there in the pods of a Job, and only its reports come here.

How many nodes a job takes follows from its devices and from what a node has. What runs in the pods is another target,
`gpu` or `cpu`, with the devices of one pod. An operator offers it by naming the pods' template, or a runtime of
Kubeflow's Trainer; see docs/kubernetes.md.
"""

from __future__ import annotations

import json
import os
from typing import Any

from regraft.errors import InvalidInputError, RegraftError
from regraft.ports import Progress
from regraft.specs import TargetSpec
from regraft.storage import is_remote
from regraft_worker.kubernetes.run import environment_of, run


def available() -> dict[str, object]:
    """What an operator has set; whether the cluster has it at the moment is its scheduler's business."""
    try:
        options = environment_of(os.environ)
        if options is None:
            return {"available": False, "devices": 0, "why": "neither REGRAFT_KUBERNETES_POD nor _RUNTIME is set"}
        if not options.runtime:
            options.template()
    except (OSError, ValueError, RegraftError) as error:
        return {"available": False, "devices": 0, "why": str(error)}
    return {
        "available": True,
        "devices": options.nodes * options.node_devices,
        "nodes": options.nodes,
        "name": f"up to {options.nodes} nodes with {options.node_devices} {options.device} devices",
    }


class Target:
    """No process computes on it: refused with what to do instead."""

    def __init__(self, devices: int, strategy: str = "auto") -> None:
        raise InvalidInputError(
            "the pods of a cluster are started by a worker",
            field="target.devices",
            value=devices,
            remedy="Post the job to an API whose worker offers this target, or train on cpu or gpu.",
            reason="target_not_available",
        )


def run_stage(stage: str, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A stage with its task, in pods; returns its result."""
    options = environment_of(os.environ)
    if options is None:
        raise InvalidInputError("this worker has no cluster", field="target.kind", value="kubernetes")
    asked = TargetSpec.model_validate(task["target"])
    # Scores are computed by one process, wherever it runs.
    devices = asked.devices if stage == "train" else 1
    nodes, each = options.nodes_for(devices)
    _check_rollback(task, nodes)
    strategy = "single" if stage != "train" else asked.strategy
    if strategy == "auto":
        strategy = "single" if nodes * each == 1 else "fsdp"
    inner = {"kind": options.device, "devices": each, "strategy": strategy}
    return run(stage, json.dumps({**task, "target": inner}), devices=devices, progress=progress, options=options)


def _check_rollback(task: dict[str, Any], nodes: int) -> None:
    """Going back needs a checkpoint on every node, and the first one writes it to its own disk."""
    watch = task.get("training", {}).get("loss_spike") or {}
    if nodes > 1 and watch.get("policy") == "roll_back" and is_remote(os.environ.get("REGRAFT_STORAGE_URI", "")):
        raise InvalidInputError(
            "a run on several nodes cannot go back while its storage is a bucket",
            field="training.loss_spike.policy",
            value="roll_back",
            remedy="Use another policy, one node, or storage that all nodes mount.",
        )
