"""A Cerebras cluster, on which nothing of ours computes: the vendor's client trains, and this process watches it.

So there is no device here, and instead of a `Target` the module has what stands in for the training loop. Offered only
where the site's settings name a client and csctl that can be run.
"""

from __future__ import annotations

from regraft.cerebrassite import CerebrasSite
from regraft.ports import Progress
from regraft.specs import PreflightResult, PreflightTask, TrainResult, TrainTask


def available() -> dict[str, object]:
    """What the site's settings say of the cluster; it is not asked, for it may be away when the worker starts."""
    site = CerebrasSite()
    missing = site.missing()
    if missing:
        return {"available": False, "devices": 0, "why": "; ".join(missing)}
    return {"available": True, "devices": 1, "release": site.release, "systems": site.systems}


def train(task: TrainTask, progress: Progress) -> TrainResult:
    """As `regraft_worker.trainer.loop.train`, on the cluster."""
    from regraft_worker.cerebras.train import train as train_there

    return train_there(task, progress, site=CerebrasSite())


def preflight(task: PreflightTask, progress: Progress) -> PreflightResult:
    """Let the client check or compile the model of a job."""
    from regraft_worker.cerebras.preflight import preflight as look

    return look(task, progress, site=CerebrasSite())
