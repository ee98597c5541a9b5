"""How fast finished trainings were: what plans of similar jobs rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from regraft.jobs import StageName, StageStatus
from regraft.models import Job, Metric, Stage
from regraft.sizing import Finished
from regraft.sizing.setup import Precision

NEWEST = 200
"""Trainings that are looked at."""
RATE = "tokens_per_second"


def finished_trainings(engine: Engine, *, target: str | None = None) -> list[Finished]:
    """The newest trainings that succeeded, each with the median of the rates it reported.

    A job whose model is not known any more, or that reported no rate, is left out. `target`: only of this kind.
    """
    with Session(engine) as session:
        found = session.execute(_newest(target)).all()
        rates = _rates(session, [job_id for job_id, _ in found])
        converted = _converted(session, list(rates))
    return [
        _finished(spec, converted[job_id], rates[job_id])
        for job_id, spec in found
        if job_id in rates and job_id in converted
    ]


def _newest(target: str | None) -> Any:
    statement = select(Job.id, Job.spec).join(Stage, Stage.job_id == Job.id)
    statement = statement.where(Stage.name == StageName.TRAIN, Stage.status == StageStatus.SUCCEEDED)
    if target is not None:
        statement = statement.where(Job.spec["target"]["kind"].astext == target)
    return statement.order_by(Job.seq.desc()).limit(NEWEST)


def _rates(session: Session, jobs: list[str]) -> dict[str, float]:
    """The median rate of each job that reported any."""
    statement = (
        select(Metric.job_id, func.percentile_cont(0.5).within_group(Metric.value))
        .where(Metric.job_id.in_(jobs), Metric.stage == StageName.TRAIN, Metric.name == RATE, Metric.value > 0)
        .group_by(Metric.job_id)
    )
    return dict(session.execute(statement).all())


def _converted(session: Session, jobs: list[str]) -> dict[str, int]:
    """Parameters of each job's model, as its convert stage counted them."""
    statement = select(Stage.job_id, Stage.result).where(Stage.job_id.in_(jobs), Stage.name == StageName.CONVERT)
    return {
        job_id: result["parameters"]
        for job_id, result in session.execute(statement)
        if isinstance(result, Mapping) and isinstance(result.get("parameters"), int)
    }


def _finished(spec: Mapping[str, Any], parameters: int, rate: float) -> Finished:
    training, dataset, target = spec["training"], spec["dataset"], spec["target"]
    return Finished(
        target=target["kind"],
        devices=target.get("devices", 1),
        precision=cast(Precision, training.get("precision", "fp32")),
        parameters=parameters,
        length=training.get("max_sequence_length") or dataset["max_sequence_length"],
        tokens_per_second=rate,
    )
