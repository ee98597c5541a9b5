"""The tables. Postgres is the truth; every other process and Redis may vanish at any moment.

Times are `timestamptz` set by the database's clock. Writers of anything that belongs to a job lock the job's row first,
so that two of them never wait for each other crosswise.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

Json = dict[str, Any]


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own protocol
        datetime: DateTime(timezone=True),
        Json: JSONB(none_as_null=True),
        list[str]: JSONB,
        str: Text,
    }


DEFAULT_PROJECT = "default"
# Conditions of partial indexes. A query that is to use one spells its condition out like this: with the state as a
# parameter, a plan that the server keeps for any parameter could not know that the index holds what is asked for.
READY = "status = 'ready'"
RUNNING = "status = 'running'"
TRAINED = "name = 'train' AND status = 'succeeded'"
WAITING = "status = 'queued' AND admitted_at IS NULL"
UNFINISHED = "status NOT IN ('succeeded', 'failed', 'cancelled')"


class OfProject:
    """Mixed into every table whose rows belong to somebody; the column came with migration 0002. Tenants come later."""

    project_id: Mapped[str] = mapped_column(server_default=text(f"'{DEFAULT_PROJECT}'"))


class Job(OfProject, Base):
    """A request and where it stands."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_by_project", "project_id", "seq"),
        Index("jobs_waiting", "project_id", "priority", "seq", postgresql_where=text(WAITING)),
        Index("jobs_unfinished", "project_id", "status", postgresql_where=text(UNFINISHED)),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    name: Mapped[str]
    spec: Mapped[Json]
    labels: Mapped[Json]
    warnings: Mapped[list[str]]
    status: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("2"))
    admitted_at: Mapped[datetime | None]
    """Set when the job may start stages: at once, or when its project has fewer running jobs than its limit."""
    reason: Mapped[str | None]
    reason_class: Mapped[str | None]
    message: Mapped[str | None]
    last_event: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    """Rises with each change that a user makes; the ETag."""
    watched_until: Mapped[datetime | None]
    """Until then its events are notified; see `jobstore.notices`."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    stages: Mapped[list[Stage]] = relationship(order_by="Stage.position", lazy="selectin", viewonly=True)


class Stage(OfProject, Base):
    """One step of a job. `epoch` is the fencing token: it rises with each claim, and a write with an old one fails."""

    __tablename__ = "stages"
    # No index holds `lease_until` or `progress`: renewing a lease then touches no index (a heap-only update).
    __table_args__ = (
        Index("stages_ready", "queue", "priority", "available_at", postgresql_where=text(READY)),
        Index("stages_announced", "announced_at", postgresql_where=text(READY)),  # 0.1's own; goes with 0.3
        Index("stages_announced_by_queue", "queue", "announced_at", postgresql_where=text(READY)),
        Index("stages_running", "id", postgresql_where=text(RUNNING)),
        Index("stages_waiting", "project_id", "available_at", "id", postgresql_where=text(READY)),
        Index("stages_trained", "finished_at", postgresql_where=text(TRAINED)),
        Index("stages_by_job", "job_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    name: Mapped[str]
    position: Mapped[int]
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("2"))
    status: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """Failed attempts in a row that left nothing durable behind."""
    override: Mapped[Json | None]
    """What the next attempt does otherwise than the spec says, e.g. `{"micro_batch_size": 4}`."""
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(server_default=func.now())
    announced_at: Mapped[datetime | None]
    progress: Mapped[Json | None]
    result: Mapped[Json | None]
    reason: Mapped[str | None]
    reason_class: Mapped[str | None]
    message: Mapped[str | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    attempts: Mapped[list[Attempt]] = relationship(order_by="Attempt.epoch", lazy="selectin", viewonly=True)


class Attempt(OfProject, Base):
    """One try of a stage by one worker."""

    __tablename__ = "attempts"

    stage_id: Mapped[str] = mapped_column(ForeignKey("stages.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    worker: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str | None]
    reason_class: Mapped[str | None]
    message: Mapped[str | None]
    detail: Mapped[Json | None]
    exit_status: Mapped[int | None]
    signal: Mapped[int | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Event(OfProject, Base):
    """A line of a job's history; `seq` has no gaps within a job, so a reader's cursor never skips one."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    stage: Mapped[str | None]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Metric(OfProject, Base):
    """One value at one step. A later attempt that repeats a step overwrites it."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    value: Mapped[float]
    tokens_seen: Mapped[int | None] = mapped_column(BigInteger)
    epoch: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Artifact(OfProject, Base):
    """Something durable that a stage published: a checkpoint, a dataset, an evaluation, an export."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("job_id", "kind", "uri"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    stage: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    uri: Mapped[str]
    detail: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Outbox(OfProject, Base):
    """A message to be sent, written in the transaction that makes it true."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_order", "priority", "id"), Index("outbox_by_stage", "stage_id"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    stage_id: Mapped[str] = mapped_column(ForeignKey("stages.id", ondelete="CASCADE"))
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("2"))
    available_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Worker(Base):
    """A worker process, what it can run, and when it last said so."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    service: Mapped[str]
    version: Mapped[str]
    queues: Mapped[list[str]]
    offers: Mapped[Json]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(OfProject, Base):
    """Who may call the API. The key itself is not kept: only its digest, which says nothing about it."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    prefix: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[str]
    name: Mapped[str]
    scope: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A request that made a job, so that the same request sent again makes no second one."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_by_job", "job_id"),)

    project_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    admitted: Mapped[bool]
    """Whether the job could start stages at once, as the first answer said."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProjectLimit(Base):
    """How much a project may have at a time; null: any number. Admission locks the row."""

    __tablename__ = "project_limits"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    max_unfinished: Mapped[int | None]
    """Jobs that have not ended; a further one is refused."""
    max_running: Mapped[int | None]
    """Jobs that run; further ones wait in the order of their priority."""


class Maintenance(Base):
    """One row: while `draining`, nothing new is claimed and what runs goes on."""

    __tablename__ = "maintenance"
    __table_args__ = (CheckConstraint("id = 1", name="maintenance_is_one_row"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    draining: Mapped[bool] = mapped_column(server_default=text("false"))
    note: Mapped[str | None]
    since: Mapped[datetime] = mapped_column(server_default=func.now())
