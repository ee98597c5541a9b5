"""`/healthz`: the process lives. `/readyz`: what it needs answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Response
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from regraft.queue import Broker
from regraft_api.dependencies import Context, Ctx
from regraft_api.schemas import Health

router = APIRouter(tags=["health"])


class Check(StrEnum):
    """What this process needs."""

    DATABASE = "database"
    BROKER = "broker"
    STORAGE = "storage"


Exclude = Annotated[list[Check] | None, Query(description="What not to look at; may be given several times")]


@router.get("/healthz", operation_id="healthz", summary="Is the process alive")
def healthz() -> Health:
    """Looks at nothing else."""
    return Health(status="ok")


@router.get("/readyz", operation_id="readyz", summary="Can requests be served", responses={503: {"model": Health}})
def readyz(context: Ctx, response: Response, exclude: Exclude = None) -> Health:
    """Database, broker and storage (which is looked at every few seconds at most). While only the broker or the storage
    is away, jobs can be posted and looked at: what takes a process out of service had better exclude those two, which
    all the processes miss at the same time."""
    looks = {Check.DATABASE: _database, Check.BROKER: _broker, Check.STORAGE: _storage}
    checks = {str(name): look(context) for name, look in looks.items() if name not in (exclude or ())}
    if all(found == "ok" for found in checks.values()):
        return Health(status="ok", checks=checks)
    response.status_code = 503
    return Health(status="unavailable", checks=checks)


def _database(context: Context) -> str:
    try:
        with context.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return type(error).__name__
    return "ok"


def _broker(context: Context) -> str:
    try:
        context.broker.ping()
    except (Broker.Unreachable, RedisError) as error:
        return type(error).__name__
    return "ok"


def _storage(context: Context) -> str:
    return context.storage.state()
