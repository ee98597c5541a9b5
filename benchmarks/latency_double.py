"""The other side of `latency.py`: a stage process that notes when it began, a worker for it, and a bare Celery worker.

Notes are files in the folder NOTES: seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

BARE = "bare.started"


def note(name: str, seconds: float) -> None:
    """Whole or not at all, for a reader that does not wait."""
    path = Path(os.environ["NOTES"]) / name
    path.with_suffix(".tmp").write_text(str(seconds))
    path.with_suffix(".tmp").rename(path)


def stage() -> int:
    """`python -m latency_double prepare`, started by a supervisor."""
    note(os.environ["REGRAFT_ATTEMPT"].split(".")[0], BEGAN)
    from regraft import child
    from regraft.specs import ConvertResult

    return child.run({"prepare": lambda text, progress: ConvertResult.model_construct(uri="file:///made")})


def worker() -> None:
    """This project's supervisor, for one queue."""
    from regraft.jobstore import make_engine
    from regraft.queue import make_celery
    from regraft.settings import Settings
    from regraft.workerprocess import Service, serve

    settings, queues = Settings(), ("prepare",)
    service = Service(name="latency", module="latency_double", queues=queues, offers={})
    serve(make_celery(settings, queues=queues), make_engine(settings), settings, service)


def started(name: str) -> None:
    """The bare worker's task."""
    note(name, time.monotonic())


def bare() -> None:
    """Celery as it comes, with the same pool."""
    from celery import Celery

    app = Celery("bare", broker=os.environ["REGRAFT_REDIS_URL"])
    app.task(started, name=BARE, ignore_result=True)
    app.worker_main(["worker", "--queues=bare", "--pool=threads", "--concurrency=1", "--loglevel=warning"])


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "prepare":
        sys.exit(stage())
    {"worker": worker, "bare": bare}[role]()
