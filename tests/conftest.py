"""Servers for the tests: a real PostgreSQL and a real Valkey on free ports in a temporary folder, and one database
for each test that asks for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import Engine

from regraft.embedded import EmbeddedPostgres, EmbeddedValkey
from regraft.jobstore import Leases, make_engine, migrate
from regraft.settings import Settings

_numbers = itertools.count()


@dataclass(frozen=True)
class Servers:
    postgres_url: str
    redis_url: str


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    postgres, valkey = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")
    try:
        postgres.start()
        valkey.start()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            # Nothing here outlives the machine, and hundreds of databases would wait for the disk.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE template_regraft")
        template = make_engine(Settings(database_url=postgres.url.replace("/regraft?", "/template_regraft?")))
        migrate(template)
        template.dispose()
        yield Servers(postgres.url, valkey.url)
    finally:
        valkey.stop()
        postgres.stop()


@pytest.fixture
def settings(servers: Servers, tmp_path: Path) -> Settings:
    """Settings of a deployment of its own."""
    return fresh_settings(servers, tmp_path / "home")


def fresh_settings(servers: Servers, home: Path) -> Settings:
    """An empty database with the schema, an empty broker, short waits."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_regraft")
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    return Settings(
        home=home,
        database_url=servers.postgres_url.replace("/regraft?", f"/{name}?"),
        redis_url=servers.redis_url,
        allowed_roots="/",
        lease_seconds=5,
        retry_seconds=0.1,
        announce_seconds=1,
        stop_seconds=20,
    )


@pytest.fixture(scope="module")
def module_settings(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a deployment that the tests of a module share; none of them asks for one of its own meanwhile."""
    return fresh_settings(servers, tmp_path_factory.mktemp("module") / "home")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def leases(engine: Engine, settings: Settings) -> Leases:
    return Leases(engine, settings)
