"""`/jobs/{id}/metrics`: every value, or series short enough to draw."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from regraft.errors import InvalidInputError
from regraft.jobs import StageName
from regraft_api.dependencies import After, AfterName, Caller, JobId, Limit
from regraft_api.routes.responses import NOT_FOUND
from regraft_api.schemas import MetricView, Page, cut
from regraft_api.schemas_fleet import Series, SeriesPoint

router = APIRouter(prefix="/jobs/{job_id}/metrics", tags=["metrics"], responses=NOT_FOUND)

Names = Annotated[
    list[Annotated[str, Field(max_length=200, pattern="^[^\x00]+$")]] | None,
    Query(max_length=50, description="Only these; may be given several times", examples=[["train_loss"]]),
]


@router.get("", operation_id="listJobMetrics", summary="A job's metrics")
def list_metrics(
    job_id: JobId,
    call: Caller,
    name: Names = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Points in a page")] = 100,
) -> Page[MetricView]:
    """Every value, by step."""
    rows, more = call.jobs.metrics(job_id, names=name or [], after=_key(after), limit=limit)
    return Page[MetricView].of([MetricView.of(row) for row in rows], more)


@router.get("/series", operation_id="listJobMetricSeries", summary="A job's metrics, downsampled")
def list_series(
    job_id: JobId,
    call: Caller,
    name: Names = None,
    stage: Annotated[StageName, Query(description="Whose metrics")] = StageName.TRAIN,
    points: Annotated[int, Query(ge=2, le=2000, description="About so many points of each series")] = 500,
    after: AfterName = None,
    limit: Limit = 100,
) -> Page[Series]:
    """By their names. Each point stands for a span of steps: mean, least and largest value."""
    call.jobs.exists(job_id)
    known = {f"{at}.{series}": series for at, series in call.reading.metric_names(job_id) if at == stage}
    chosen, more = cut(
        (key for key, series in known.items() if name is None or series in name), after=after, limit=limit
    )
    rows = call.reading.series(job_id, stage=stage, names=[known[key] for key in chosen], points=points - 1)
    spans = {series: _points(list(group)) for series, group in groupby(rows, key=lambda row: row.name)}
    found = [Series(id=key, stage=stage, name=known[key], points=spans[known[key]]) for key in chosen]
    return Page[Series].of(found, more)


def _points(rows: list[Any]) -> list[SeriesPoint]:
    points = [
        SeriesPoint(
            step=row.step, tokens_seen=row.tokens_seen, value=row.value, min=row.low, max=row.high, count=row.number
        )
        for row in rows
    ]
    return [*points[:-1], points[-1].model_copy(update={"value": rows[-1].last})]


def _key(cursor: str | None) -> tuple[int, str, str] | None:
    if cursor is None:
        return None
    step, _, rest = cursor.partition(".")
    stage, _, name = rest.partition(".")
    if not (step.isascii() and step.isdecimal() and len(step) < 19 and name):
        raise InvalidInputError("not the id of a metric", field="after", value=cursor, remedy="Use a page's last_id.")
    return int(step), stage, name
