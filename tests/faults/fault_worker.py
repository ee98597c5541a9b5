"""A real Celery worker with every queue and the stage processes of `fault_stage`.

`FAULT_CLOCK` shifts its wall clock by so many seconds, as a wrong clock would.
"""

from __future__ import annotations

import os
import time
from functools import partial

from regraft.jobstore import make_engine
from regraft.logs import log_to_stderr
from regraft.processes import die_with
from regraft.queue import make_celery
from regraft.settings import Settings
from regraft.workerprocess import Service, serve

QUEUES = ("prepare", "convert", "train.cpu", "evaluate.cpu", "export")


def shifted(real: object, seconds: float) -> float:
    return real() + seconds  # type: ignore[operator, no-any-return]


if __name__ == "__main__":
    die_with(os.environ["FAULT_PARENT"])
    if offset := float(os.environ.get("FAULT_CLOCK", "0")):
        time.time = partial(shifted, time.time, offset)
    settings = Settings()
    log_to_stderr(settings)
    service = Service(name="double", module="fault_stage", queues=QUEUES, offers={})
    serve(make_celery(settings, queues=QUEUES), make_engine(settings), settings, service)
