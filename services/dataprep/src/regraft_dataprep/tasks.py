"""The Celery worker of this service; the only file here that knows Celery."""

from __future__ import annotations

from regraft import discover
from regraft.jobs import StageName
from regraft.jobstore import make_engine
from regraft.logs import log_to_stderr
from regraft.queue import make_celery
from regraft.settings import Settings
from regraft.workerprocess import Service
from regraft.workerprocess import serve as serve_stages


def serve() -> None:
    """Run a data preparation worker: takes `prepare` stages from the queue until stopped."""
    settings = Settings()
    log_to_stderr(settings)
    offers = {"sources": discover.names("regraft_dataprep.sources")}
    service = Service(
        name="dataprep",
        module="regraft_dataprep.stage",
        queues=[StageName.PREPARE],
        offers=offers,
        assists_in=StageName.PREPARE,
    )
    app = make_celery(settings, queues=service.queues)
    serve_stages(app, make_engine(settings), settings, service)
