"""A TrainJob of Kubeflow's Trainer for a stage, where an operator has named a runtime for it. Pure.

The runtime has what the template of pods has otherwise: image, devices, volumes, credentials. Its controller makes an
Indexed Job of it by way of a JobSet, whose first pod has a name in the namespace. The trade-off: variables that stand
here go before the runtime's, and how often a pod is tried again is the runtime's business; see docs/kubernetes.md.
"""

from __future__ import annotations

from regraft_worker.kubernetes.objects import COMMAND, Json, Kind, Run, environment, metadata
from regraft_worker.kubernetes.options import Options

GROUP = "trainer.kubeflow.org"
STEP = "node"
"""By Trainer's convention the name of the replicated job that trains, and of its container."""
_JOBSET = "jobset.sigs.k8s.io"
_OWN = ("REGRAFT_CACHE_BYTES",)  # of a disk that the runtime gives


def train_job(run: Run, options: Options) -> Json:
    """The TrainJob."""
    kind, _, name = options.runtime.rpartition("/")
    told = environment(run, first=f"{run.name}-{STEP}-0-0.{run.name}")
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata(run, options),
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": kind or "TrainingRuntime", "name": name},
            "suspend": bool(options.queue),
            "trainer": {
                "command": list(COMMAND),
                "numNodes": run.nodes,
                "env": [{"name": name, "value": value} for name, value in told.items() if name not in _OWN],
            },
        },
    }


TRAIN_JOB = Kind(
    path=f"/apis/{GROUP}/v1alpha1/namespaces/{{}}/trainjobs",
    body=train_job,
    pods=f"{_JOBSET}/jobset-name={{}},{_JOBSET}/replicatedjob-name={STEP}",
    container=STEP,
    names_pods=True,
)
