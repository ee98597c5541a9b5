"""What the routes are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from regraft.jobstore import Control, Jobs, Keys, Principal, Workers
from regraft.jobstore.reading import Reading
from regraft.queue import Broker
from regraft.settings import Settings
from regraft_api.artifacts import Artifacts
from regraft_api.hub import Hub
from regraft_api.looks import Look
from regraft_api.nudge import Nudge


@dataclass(frozen=True)
class Context:
    """Everything an API process holds on to; made once in `create_app`."""

    settings: Settings
    engine: Engine
    workers: Workers
    broker: Broker
    hub: Hub
    nudge: Nudge
    registry: CollectorRegistry
    artifacts: Artifacts
    storage: Look


@dataclass(frozen=True)
class Call:
    """A request of somebody: the stores as that project sees them."""

    context: Context
    principal: Principal

    @property
    def settings(self) -> Settings:
        """The process's settings."""
        return self.context.settings

    @property
    def jobs(self) -> Jobs:
        """The caller's jobs."""
        return Jobs(self.context.engine, project=self.principal.project)

    @property
    def control(self) -> Control:
        """Pausing, resuming and trying again."""
        return Control(self.context.engine, project=self.principal.project)

    @property
    def reading(self) -> Reading:
        """Series, queues and lineage."""
        return Reading(self.context.engine)

    @property
    def keys(self) -> Keys:
        """The caller's project's keys."""
        return Keys(self.context.engine, project=self.principal.project)


# Coroutines, although they wait for nothing: a function would be run in a thread, which costs more than it does.
async def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


async def _call(request: Request) -> Call:
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return Call(await _context(request), principal)


Ctx = Annotated[Context, Depends(_context)]
Caller = Annotated[Call, Depends(_call)]

PLAIN = "^[A-Za-z0-9@._:/-]+$"
JobId = Annotated[
    str, Path(max_length=64, pattern=PLAIN, description="The job's id", examples=["job-7c0ffee5eed1234a"])
]
Limit = Annotated[int, Query(ge=1, le=100, description="Items in a page")]
After = Annotated[
    str | None, Query(max_length=200, pattern=PLAIN, description="Start after the item with this id: a page's last_id")
]
AfterName = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=500,
        pattern="^[^\x00]+$",
        description="Start after this id, in the order of characters",
    ),
]
Before = Annotated[
    str | None, Query(max_length=200, pattern=PLAIN, description="End before the item with this id: a page's first_id")
]
