"""Plants on the session's servers, and on servers of their own for tests that break them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plant import Own, Plant, plant_of
from proxy import Proxy, proxy_to
from sqlalchemy import Engine

from regraft.embedded import EmbeddedPostgres, EmbeddedValkey
from regraft.jobstore import make_engine, migrate
from regraft.settings import Settings

SHORT = {
    "lease_seconds": 3.0,
    "announce_seconds": 1.0,
    "poll_seconds": 0.25,
    "stop_seconds": 5.0,
    "hang_seconds": 60.0,  # on a busy machine a process takes some seconds to say its first word
    "capacity_seconds": 0.5,
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=SHORT)


@pytest.fixture
def plant(engine: Engine, settings: Settings) -> Iterator[Plant]:
    with plant_of(engine, settings) as made:
        yield made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    folder = tmp_path_factory.mktemp("own")
    servers = Own(EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey"))
    try:
        servers.postgres.start()
        servers.valkey.start()
        engine = make_engine(Settings(database_url=servers.postgres.url))
        migrate(engine)
        engine.dispose()
        yield servers
    finally:
        servers.valkey.stop()
        servers.postgres.stop()


@pytest.fixture
def own_settings(own: Own, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        database_url=own.postgres.url,
        redis_url=own.valkey.url,
        allowed_roots="/",
        retry_seconds=0.1,
    ).model_copy(update=SHORT)


@pytest.fixture
def own_plant(own_settings: Settings) -> Iterator[Plant]:
    engine = make_engine(Settings(database_url=own_settings.database_url))
    with plant_of(engine, own_settings) as made:
        yield made
    engine.dispose()


@pytest.fixture
def proxy(plant: Plant) -> Iterator[Proxy]:
    with proxy_to(plant.settings) as made:
        yield made
