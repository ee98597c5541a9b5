"""What the API sends about keys, workers, queues and logs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from regraft.jobstore import Scope
from regraft.models import ApiKey, Stage, Worker
from regraft_api.schemas import Sent, View


class KeyRequest(Sent):
    """A key to be made."""

    name: str = Field("", max_length=200, pattern="^[^\x00]*$")
    """What it is for."""
    scope: Scope = Scope.READ
    """`read`, `write`, `admin`; each may do what those before it may."""
    days: int | None = Field(None, ge=1, le=3650)
    """How long it is valid. Null: until it is revoked."""


class KeyView(View):
    """A key, without the key itself."""

    object: Literal["key"] = "key"
    id: str
    prefix: str
    """Its first characters, to recognise it by."""
    name: str
    scope: str
    project_id: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: ApiKey) -> KeyView:
        """From its row."""
        return cls.model_validate(row)


class NewKeyView(KeyView):
    """A key that was just made."""

    key: str
    """The key. It is shown this once."""


class WorkerView(View):
    """A worker that was heard of within a minute."""

    name: str
    service: str
    """`worker`, `dataprep`."""
    version: str
    queues: list[str]
    """It takes from."""
    offers: dict[str, Any]
    """Targets with what is known of them, corpora it reads."""
    started_at: datetime
    seen_at: datetime

    @classmethod
    def of(cls, row: Worker) -> WorkerView:
        """From its row."""
        return cls.model_validate(row)


class TargetView(View):
    """Hardware that a running worker offers."""

    kind: str
    devices: int
    """Most devices that one worker has."""
    workers: int
    facts: dict[str, Any]
    """What its worker says about it."""


class Capabilities(View):
    """What can be asked for now."""

    object: Literal["capabilities"] = "capabilities"
    targets: list[TargetView]
    families: list[str]
    """Model families."""
    sources: list[str]
    """Kinds of corpora that a running worker reads."""
    formats: list[str]
    """Checkpoint formats to export."""
    recipes: list[str]
    workers: list[WorkerView]


class QueueView(View):
    """A queue in which something waits or whose stages run."""

    queue: str
    ready: int
    """Stages that wait for a worker."""
    running: int
    """Stages at work."""
    oldest_seconds: float
    """How long the stage that has waited longest could have been started."""
    workers: int
    """Running workers that take from it."""


class WaitingView(View):
    """A stage that waits for a worker."""

    object: Literal["queue.stage"] = "queue.stage"
    id: str
    job_id: str
    stage: str
    queue: str
    available_at: datetime
    """Since when it might have been started; ahead: it waits before it is tried again."""

    @classmethod
    def of(cls, row: Stage) -> WaitingView:
        """From its row."""
        return cls.model_validate({**row.__dict__, "stage": row.name})


class Queue(View):
    """The caller's stages that wait, and the queues of the whole deployment."""

    object: Literal["list"] = "list"
    data: list[WaitingView]
    has_more: bool
    first_id: str | None
    last_id: str | None
    queues: list[QueueView]


class LogLine(View):
    """A line of an attempt's output."""

    object: Literal["job.log_line"] = "job.log_line"
    id: str
    """Where the next line begins, in bytes."""
    stage: str
    attempt: int
    text: str


class SeriesPoint(View):
    """Several neighbouring values as one."""

    step: int
    """The last of them."""
    tokens_seen: int | None
    value: float
    """Their mean; of the newest point the newest value."""
    min: float
    max: float
    count: int
    """How many values it stands for."""


class Series(View):
    """A metric over its steps."""

    object: Literal["job.metric_series"] = "job.metric_series"
    id: str
    stage: str
    name: str
    points: list[SeriesPoint]
