"""The Celery worker of this service; the only file here that knows Celery. It never imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from sqlalchemy import Engine

from regraft.cerebrassite import CerebrasSite
from regraft.jobs import StageName
from regraft.jobstore import make_engine
from regraft.logs import log_to_stderr
from regraft.plan import ON_TARGET
from regraft.queue import make_celery
from regraft.settings import Settings
from regraft.specs.target import CEREBRAS
from regraft.workerprocess import Service
from regraft.workerprocess import serve as serve_stages
from regraft_worker.cerebras.csctl import Csctl
from regraft_worker.kubernetes.cluster import Cluster
from regraft_worker.kubernetes.options import Options
from regraft_worker.reconcile import Reconciler, sweep_cerebras, sweep_kubernetes


def serve() -> None:
    """Run a compute worker: takes `convert`, `train`, `evaluate` and `export` stages until stopped."""
    settings = Settings()
    log_to_stderr(settings)
    targets = _probe()
    on_target = [f"{stage}.{target}" for target in targets for stage in _stages_on(target)]
    queues = [StageName.CONVERT, *on_target, StageName.EXPORT]
    service = Service(name="worker", module="regraft_worker.stage", queues=queues, offers={"targets": targets})
    app = make_celery(settings, queues=service.queues)
    engine = make_engine(settings)
    for sweep in _sweeps(targets, engine):
        Reconciler(sweep).start()  # ends with the process
    serve_stages(app, engine, settings, service)


def _sweeps(targets: Mapping[str, object], engine: Engine) -> Iterator[Callable[[], object]]:
    """One for each cluster that this worker offers."""
    if CEREBRAS in targets:
        yield partial(sweep_cerebras, engine, Csctl(CerebrasSite()))
    if "kubernetes" in targets:
        yield partial(sweep_kubernetes, engine, Cluster(Options.of(os.environ)))


def _stages_on(target: str) -> tuple[StageName, ...]:
    """A cluster scores nothing for us, and only there is something to be looked at first."""
    left_out = StageName.EVALUATE if target == CEREBRAS else StageName.PREFLIGHT
    return tuple(stage for stage in ON_TARGET if stage is not left_out)


def _probe() -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "regraft_worker.probe"]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found
