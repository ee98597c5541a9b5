"""`/healthz`: the process lives. `/readyz`: what it needs answers."""

from __future__ import annotations

from fastapi import APIRouter, Response
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from regraft.queue import Broker
from regraft_api.dependencies import Context, Ctx
from regraft_api.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="healthz", summary="Is the process alive")
def healthz() -> Health:
    """Looks at nothing else."""
    return Health(status="ok")


@router.get("/readyz", operation_id="readyz", summary="Can requests be served", responses={503: {"model": Health}})
def readyz(context: Ctx, response: Response) -> Health:
    """Database, broker and storage (which is looked at every few seconds at most). A job can be posted while only the
    broker is away: it waits in the database."""
    checks = {"database": _database(context), "broker": _broker(context), "storage": context.storage.state()}
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
