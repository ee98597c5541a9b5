"""The API's composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry

from regraft.jobstore import Keys, Workers, make_engine
from regraft.queue import Broker, make_celery
from regraft.settings import Settings
from regraft_api import problems
from regraft_api.artifacts import Artifacts
from regraft_api.dependencies import Context
from regraft_api.door import Door, KeyRing
from regraft_api.hub import Hub
from regraft_api.looks import Look
from regraft_api.nudge import Nudge
from regraft_api.openapi import describe
from regraft_api.prometheus import Deployment
from regraft_api.routes import checkpoints, control, events, fleet, health, jobs, keys, logs, metrics, plan, prometheus

DESCRIPTION = """
Continued pre-training of language models as one request: `POST /jobs` runs prepare, convert, train, evaluate and
export. Every request but those for health and documentation carries `Authorization: Bearer <key>`. Errors are RFC 9457
problem details that name the field, the value and the remedy.
"""
ROUTES = (jobs, plan, control, events, metrics, logs, checkpoints, fleet, keys, health, prometheus)
LOCK_SECONDS = 10.0
POOL = 20
WORKERS_SECONDS = 1.0
"""How late an answer may be about workers, which write their rows every few seconds themselves."""


def create_app(settings: Settings) -> FastAPI:
    """The application; connects to nothing until it is started or asked something."""
    engine = make_engine(settings, pool_size=POOL, lock_seconds=LOCK_SECONDS)
    ring = KeyRing(Keys(engine))
    hub = Hub(engine, settings.database_url, on_keys=ring.listening)
    broker, artifacts = Broker(make_celery(settings)), Artifacts(settings)
    nudge = Nudge(engine, broker)
    registry = CollectorRegistry()
    workers = Workers(engine, remember_seconds=WORKERS_SECONDS)
    registry.register(Deployment(engine, workers, hub))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # No more requests at work than there are connections: who waits for one waits in order, and not in a thread.
        current_default_thread_limiter().total_tokens = POOL
        nudge.start()
        running = asyncio.create_task(hub.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await asyncio.to_thread(nudge.stop)
        engine.dispose()

    app = FastAPIOffline(  # FastAPI, with the documentation's scripts served from here and not from the internet
        title="Regraft",
        version=version("regraft-api"),
        description=DESCRIPTION,
        redoc_url=None,
        lifespan=lifespan,
    )
    storage = Look(artifacts.look)
    app.state.context = Context(settings, engine, workers, broker, hub, nudge, registry, artifacts, storage)
    problems.install(app)
    for module in ROUTES:
        app.include_router(module.router)
    app.add_api_route("/", _to_docs, include_in_schema=False)
    app.add_middleware(Door, ring=ring, max_body_bytes=settings.max_body_bytes, registry=registry)
    describe(app)
    return app


def _to_docs() -> RedirectResponse:
    return RedirectResponse("/docs")
