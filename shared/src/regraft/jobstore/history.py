"""How fast finished trainings were: what plans of similar jobs rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import Engine, Select, func, select, text
from sqlalchemy.orm import Session

from regraft.jobs import StageName
from regraft.models import TRAINED, Job, Metric, Stage
from regraft.sizing import Finished
from regraft.sizing.setup import Precision

NEWEST = 200
"""Trainings that are looked at."""
RATE = "tokens_per_second"


def finished_trainings(engine: Engine) -> list[Finished]:
    """The trainings that succeeded last, each with the median of the rates it reported.

    A job whose model is not known any more, or that reported no rate, is left out.
    """
    with Session(engine) as session:
        found = session.execute(_newest()).all()
        rates = _rates(session, [job_id for job_id, _ in found])
        converted = _converted(session, list(rates))
    return [
        _finished(spec, converted[job_id], rates[job_id])
        for job_id, spec in found
        if job_id in rates and job_id in converted
    ]


def _newest() -> Select[str, dict[str, Any]]:
    # First the stages, by their index: however many jobs there are, no more are looked at than are wanted.
    last = select(Stage.job_id, Stage.finished_at).where(text(TRAINED))
    newest = last.order_by(Stage.finished_at.desc()).limit(NEWEST).subquery()
    return select(Job.id, Job.spec).join(newest, newest.c.job_id == Job.id).order_by(newest.c.finished_at.desc())


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
