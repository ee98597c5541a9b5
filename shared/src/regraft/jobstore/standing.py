"""Where a stage stands, for whoever finds something with its name on it outside of this deployment."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, select

from regraft.jobs import StageStatus
from regraft.models import Stage


@dataclass(frozen=True)
class Standing:
    """A stage that this deployment knows."""

    status: StageStatus
    epoch: int


def standing_of(engine: Engine, job_id: str, stage: str) -> Standing | None:
    """None: it is no stage of ours."""
    wanted = (Stage.job_id == job_id, Stage.name == stage)
    with engine.connect() as connection:
        row = connection.execute(select(Stage.status, Stage.epoch).where(*wanted)).first()
    return None if row is None else Standing(StageStatus(row.status), row.epoch)
