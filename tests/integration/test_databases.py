"""Databases that are not as they should be, as an operator meets them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import inspect
from typer.testing import CliRunner

from regraft.cli import make_app
from regraft.errors import InvalidInputError, RegraftError
from regraft.jobstore import make_engine, migrate
from regraft.settings import Settings


def test_a_database_without_an_encoding_is_refused_before_anything_is_made(servers: Any, settings: Settings) -> None:
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bytes_alone ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    url = servers.postgres_url.replace("/regraft?", "/bytes_alone?")
    engine = make_engine(settings.model_copy(update={"database_url": url}))
    with pytest.raises(InvalidInputError, match=r"'SQL_ASCII'.*ENCODING 'UTF8'"):
        migrate(engine)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_migrating_a_database_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/regraft")
    error = CliRunner().invoke(make_app(), ["migrate"]).exception
    assert isinstance(error, RegraftError)
    assert str(error).startswith("REGRAFT_DATABASE_URL: the database cannot be used: ")
    assert "Connection refused" in str(error)
    assert "secret" not in str(error)
