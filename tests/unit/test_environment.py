"""Settings and keys that come from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.attempt import child_environment
from regraft.errors import InvalidInputError
from regraft.keyfile import find_key
from regraft.pulse import Pulse
from regraft.settings import Settings


@pytest.fixture(autouse=True)
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file named by REGRAFT_DATABASE_URL_FILE, and nothing else set."""
    monkeypatch.delenv("REGRAFT_DATABASE_URL", raising=False)
    path = tmp_path / "database_url"
    path.write_text("postgresql://user:secret@db/regraft\n")
    monkeypatch.setenv("REGRAFT_DATABASE_URL_FILE", str(path))
    return path


def test_a_setting_is_read_from_its_file_without_the_line_end() -> None:
    assert Settings().database_url == "postgresql://user:secret@db/regraft"


def test_numbers_from_files_are_checked_as_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "port").write_text("8123\n")
    monkeypatch.setenv("REGRAFT_API_PORT_FILE", str(tmp_path / "port"))
    assert Settings().api_port == 8123
    (tmp_path / "port").write_text("seven")
    with pytest.raises(ValueError, match="api_port"):
        Settings()


def test_the_variable_itself_wins_but_not_when_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_DATABASE_URL", "")
    assert Settings().database_url.endswith("@db/regraft")
    monkeypatch.setenv("REGRAFT_DATABASE_URL", "postgresql://other/x")
    assert Settings().database_url == "postgresql://other/x"


def test_a_file_that_is_not_there_is_named(secret: Path) -> None:
    secret.unlink()
    with pytest.raises(InvalidInputError, match="REGRAFT_DATABASE_URL_FILE: the file cannot be read: No such file"):
        Settings()


def test_the_command_line_finds_its_key_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGRAFT_API_KEY", raising=False)
    (tmp_path / "key").write_text("rgk_x\n")
    monkeypatch.setenv("REGRAFT_API_KEY_FILE", str(tmp_path / "key"))
    assert find_key("https://api.example") == "rgk_x"


def test_a_stage_process_is_told_of_no_secret_and_no_file_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_API_KEY", "rgk_x")
    monkeypatch.setenv("PGPASSWORD", "secret")  # as the chart gives them
    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    monkeypatch.setenv("REGRAFT_LOG_LEVEL", "INFO")
    given = child_environment(Settings(), "MARK=1")
    assert given["REGRAFT_LOG_LEVEL"] == "INFO"
    assert not {
        name for name in given if "DATABASE" in name or "REDIS" in name or "API_KEY" in name or "PASSWORD" in name
    }


def test_a_pulse_touches_its_file_and_bears_a_disk_that_refuses(tmp_path: Path) -> None:
    Pulse(str(tmp_path / "alive")).beat()
    assert (tmp_path / "alive").exists()
    Pulse(str(tmp_path / "no-folder" / "alive")).beat()
    Pulse("").beat()
