"""What the routes are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from regraft.jobstore import Jobs, Workers
from regraft.queue import Broker
from regraft.settings import Settings


@dataclass(frozen=True)
class Context:
    """Everything an API process holds on to; made once in `create_app`."""

    settings: Settings
    engine: Engine
    jobs: Jobs
    workers: Workers
    broker: Broker


def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


Ctx = Annotated[Context, Depends(_context)]
