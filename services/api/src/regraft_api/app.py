"""The API's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from regraft.jobstore import Jobs, Workers, make_engine
from regraft.queue import Broker, make_celery
from regraft.settings import Settings
from regraft_api import problems
from regraft_api.dependencies import Context
from regraft_api.routes import health, jobs, plan

DESCRIPTION = """
Continued pre-training of language models as one request: `POST /jobs` runs prepare, convert, train, evaluate and
export. Errors are RFC 9457 problem details that name the field, the value and the remedy.
"""


def create_app(settings: Settings) -> FastAPI:
    """The application; connects to nothing until it is asked something."""
    engine = make_engine(settings, pool_size=10)
    broker = Broker(make_celery(settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPIOffline(  # FastAPI, with the documentation's scripts served from here and not from the internet
        title="Regraft",
        version=version("regraft-api"),
        description=DESCRIPTION,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = Context(settings, engine, Jobs(engine), Workers(engine), broker)
    problems.install(app)
    app.include_router(plan.router)
    app.include_router(jobs.router)
    app.include_router(health.router)
    app.add_api_route("/", _to_docs, include_in_schema=False)
    return app


def _to_docs() -> RedirectResponse:
    return RedirectResponse("/docs")
