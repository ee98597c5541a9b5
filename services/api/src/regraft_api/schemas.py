"""What the API sends. Statuses and reasons are plain strings, so that a new one does not break an old client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from regraft.jobs import STAGE_DONE, JobStatus, StageStatus
from regraft.jobstore import Accepted
from regraft.jobstore.creation import first_stages
from regraft.models import Attempt, Event, Job, Metric, Stage
from regraft.specs import JobSpec


class View(BaseModel):
    """A response body; the docstring under a field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True, from_attributes=True)


class Sent(View):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


def _is_empty(text: str) -> bool:
    return not text


class Fault(View):
    """One thing that is wrong with a request, and where: one of `pointer`, `parameter` and `header`."""

    pointer: str = Field("", exclude_if=_is_empty)
    """JSON pointer into the request's body, e.g. `#/training/max_steps`."""
    parameter: str = Field("", exclude_if=_is_empty)
    """Name of a parameter of the path or the query, e.g. `after`."""
    header: str = Field("", exclude_if=_is_empty)
    """Name of a header, e.g. `If-Match`."""
    field: str
    """The same place, as it is written in a job file (`training.max_steps`) or in the API's description."""
    message: str
    value: Any = None
    """What was sent."""
    remedy: str = ""
    """What to do about it."""


class Problem(View):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str = ""
    instance: str | None = None
    code: str
    """Stable, snake_case: for programs."""
    errors: list[Fault] = Field(default_factory=list)


class Progress(View):
    """How far a running stage has come."""

    step: int
    """Steps done."""
    total_steps: int | None = None
    """Null: not known yet."""
    tokens_seen: int | None = None
    """By training, in all attempts."""
    percent: float | None = None
    """Of this stage, 0 to 100."""
    seconds_left: float | None = None
    """At the pace of the last steps; null: not known."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """The newest values."""


class AttemptView(View):
    """One try of a stage."""

    attempt: int
    """Counts from 1 within its stage."""
    worker: str
    """Who carried it out."""
    status: str
    """`running`, `succeeded`, `cached`, `failed`, `cancelled`, `released`."""
    reason: str | None
    """Why it did not succeed: stable, snake_case."""
    reason_class: str | None
    """As of a job."""
    message: str | None
    """The same in words."""
    detail: dict[str, Any] | None
    """Field, value and remedy, where an error names them."""
    exit_status: int | None
    """Of its process, if it ended by itself."""
    signal: int | None
    """Number of the signal that ended its process."""
    started_at: datetime
    finished_at: datetime | None
    """Null: it runs."""

    @classmethod
    def of(cls, row: Attempt) -> AttemptView:
        """From its row."""
        return cls.model_validate({**row.__dict__, "attempt": row.epoch})


class StageView(View):
    """One stage of a job."""

    name: str
    status: str
    """`pending`, `ready`, `running`, `cached`, `skipped`, `succeeded`, `failed`, `cancelled`."""
    reason: str | None = None
    """Why it is not done, or how it stands while it runs: stable, snake_case."""
    reason_class: str | None = None
    """As of a job."""
    message: str | None = None
    """The same in words."""
    worker: str | None = None
    """Who carries it out, or did last."""
    progress: Progress | None = None
    """The newest that was reported; null before the first."""
    result: dict[str, Any] | None = None
    """What the stage handed back."""
    attempts: list[AttemptView] = Field(default_factory=list)
    """The oldest first."""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def of(cls, row: Stage) -> StageView:
        """From its row."""
        return cls.model_validate({**row.__dict__, "attempts": [AttemptView.of(attempt) for attempt in row.attempts]})


class JobView(View):
    """A job."""

    object: Literal["job"] = "job"
    id: str
    name: str
    status: str
    """`queued`, `running`, `pausing`, `paused`, `cancelling`, `succeeded`, `failed`, `cancelled`."""
    reason: str | None = None
    """Why it failed or was cancelled: stable, snake_case."""
    reason_class: str | None = None
    """`user_error`, `data_error`, `capacity`, `infrastructure`, `control_plane`, `limit`, `user_request`."""
    message: str | None = None
    """The same in words."""
    percent: float
    """Of all stages; each counts the same."""
    priority: str
    """`p1`, `p2`, `p3`."""
    labels: dict[str, str]
    warnings: list[str]
    """Accepted, but worth knowing."""
    stages: list[StageView]
    """In the order in which they are carried out."""
    spec: dict[str, Any]
    """The job as it is run, every default filled in."""
    version: int = 1
    """Rises with each change by a user; also the ETag."""
    created_at: datetime
    started_at: datetime | None = None
    """When its first stage was taken up."""
    finished_at: datetime | None = None

    @classmethod
    def of(cls, row: Job) -> JobView:
        """From its row."""
        stages = [StageView.of(stage) for stage in row.stages]
        return cls.model_validate(
            {**row.__dict__, "stages": stages, "percent": _percent(stages), "priority": f"p{row.priority}"}
        )

    @classmethod
    def accepted(cls, job: Accepted, spec: JobSpec) -> JobView:
        """As it was when it was created; the stages follow from its spec."""
        stages = [
            StageView(name=stage["name"], status=stage["status"]) for stage in first_stages(spec, admitted=job.admitted)
        ]
        return cls(
            id=job.id,
            name=spec.name,
            status=JobStatus.QUEUED,
            percent=0.0,
            priority=spec.priority,
            labels=job.spec["labels"],
            warnings=list(job.warnings),
            stages=stages,
            spec=job.spec,
            created_at=job.created_at,
        )


def _percent(stages: list[StageView]) -> float:
    parts = [_stage_percent(stage) for stage in stages]
    return round(sum(parts) / len(parts), 1) if parts else 0.0


def _stage_percent(stage: StageView) -> float:
    if stage.status in {str(status) for status in STAGE_DONE}:
        return 100.0
    if stage.status == StageStatus.RUNNING and stage.progress is not None:
        return stage.progress.percent or 0.0
    return 0.0


class EventView(View):
    """A line of a job's history."""

    object: Literal["job.event"] = "job.event"
    id: str
    """Rises by one within a job."""
    stage: str | None
    """Null: about the job as a whole."""
    level: str
    """`info`, `warn`, `error`."""
    type: str
    """`state`, `message`, or `condition`: how a running stage stands, when that has changed."""
    message: str
    data: dict[str, Any] | None
    """The same for programs."""
    created_at: datetime

    @classmethod
    def of(cls, row: Event) -> EventView:
        """From its row."""
        return cls.model_validate({**row.__dict__, "id": str(row.seq)})


class MetricView(View):
    """One value at one step."""

    object: Literal["job.metric"] = "job.metric"
    id: str
    stage: str
    """Who measured it."""
    name: str
    """`train_loss`, `train_lr`, `train_grad_norm`, `val_loss`, ..."""
    step: int
    tokens_seen: int | None
    """By training until then."""
    value: float
    attempt: int
    """Who wrote it last; one that repeats a step overwrites."""
    created_at: datetime

    @classmethod
    def of(cls, row: Metric) -> MetricView:
        """From its row."""
        return cls.model_validate({**row.__dict__, "id": f"{row.step}.{row.stage}.{row.name}", "attempt": row.epoch})


Item = TypeVar("Item")


class Page(View, Generic[Item]):
    """A page of a list. The next one: `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, items: Sequence[Any], more: bool) -> Page[Any]:
        """A page of items that have an `id`."""
        first, last = (items[0].id, items[-1].id) if items else (None, None)
        return cls(data=list(items), has_more=more, first_id=first, last_id=last)


def cut(ids: Iterable[str], *, after: str | None, limit: int) -> tuple[list[str], bool]:
    """The page of `ids`, sorted, that begins after `after`, and whether there are more; for lists all at hand."""
    left = sorted(key for key in ids if after is None or key > after)
    return left[:limit], len(left) > limit


class Health(View):
    """Whether a part works, and if not, why."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(default_factory=dict)
