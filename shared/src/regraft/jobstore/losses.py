"""Stages whose worker is known to be dead: taken back at once, under the same rules as an expired lease."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from regraft.jobs import StageStatus
from regraft.jobstore.advance import lock_job
from regraft.jobstore.outcomes import settle, worker_lost
from regraft.models import Stage
from regraft.settings import Settings


class Losses:
    """What a worker needs to know for that: whose death is certain, it finds out for itself."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def give_back(self, stage_id: str, *, epoch: int, worker: str) -> bool:
        """End the attempt of a dead worker, as lost; False: it did not hold the stage any more, nothing is written."""
        held = (Stage.id == stage_id, Stage.epoch == epoch, Stage.worker == worker)
        with Session(self._engine) as session, session.begin():
            job_id = session.scalar(select(Stage.job_id).where(*held))
            if job_id is None:
                return False
            job = lock_job(session, job_id)
            stage = session.scalar(select(Stage).where(*held, Stage.status == StageStatus.RUNNING))
            if stage is None:
                return False
            settle(session, job, stage, worker_lost(f"worker {worker} was killed"), settings=self._settings)
            return True
