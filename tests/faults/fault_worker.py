"""A real Celery worker with every queue and the stage processes of `fault_stage`."""

from __future__ import annotations

import os

from regraft.jobstore import make_engine
from regraft.logs import log_to_stderr
from regraft.processes import die_with
from regraft.queue import make_celery
from regraft.settings import Settings
from regraft.workerprocess import Service, serve

QUEUES = ("prepare", "convert", "train.cpu", "evaluate.cpu", "export")

if __name__ == "__main__":
    die_with(os.environ["FAULT_PARENT"])
    settings = Settings()
    log_to_stderr(settings)
    service = Service(name="double", module="fault_stage", queues=QUEUES, offers={})
    serve(make_celery(settings, queues=QUEUES), make_engine(settings), settings, service)
