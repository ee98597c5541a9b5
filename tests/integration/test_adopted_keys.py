"""Keys that a deployment's secrets hold are made valid at its start."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from regraft.cli import make_app
from regraft.errors import ConflictError, InvalidInputError
from regraft.jobstore import Keys, Scope
from regraft.settings import Settings

KEY = "rgk_0123456789ab_" + "aB3" * 10 + "xy"


def test_an_adopted_key_opens_and_adopting_it_again_changes_nothing(engine: Engine) -> None:
    keys = Keys(engine)
    row = keys.adopt(KEY, name="api_key", scope=Scope.ADMIN)
    assert keys.adopt(KEY, name="api_key", scope=Scope.ADMIN).id == row.id
    found = keys.find(KEY)
    assert found is not None
    assert (found.key_id, found.scope, found.project) == (row.id, Scope.ADMIN, "default")
    assert KEY not in repr(vars(row))


def test_what_is_no_key_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInputError, match=r"api_key: has not the form of a key\. A key is rgk_"):
        Keys(engine).adopt("password", name="api_key", scope=Scope.ADMIN)


def test_a_revoked_key_stays_revoked(engine: Engine) -> None:
    keys = Keys(engine)
    keys.revoke(keys.adopt(KEY, name="", scope=Scope.READ).id)
    with pytest.raises(ConflictError, match="revoked"):
        keys.adopt(KEY, name="", scope=Scope.READ)
    assert keys.find(KEY) is None


@pytest.mark.parametrize("change", ["secret", "scope", "project"])
def test_a_known_prefix_with_anything_else_is_refused(engine: Engine, change: str) -> None:
    Keys(engine).adopt(KEY, name="", scope=Scope.READ)
    key = KEY[:-2] + "zz" if change == "secret" else KEY
    scope = Scope.ADMIN if change == "scope" else Scope.READ
    with pytest.raises(ConflictError, match="another key, scope or project"):
        Keys(engine, project="other" if change == "project" else "default").adopt(key, name="", scope=scope)


def test_the_command_takes_scopes_and_files(
    engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text(settings.database_url)
    (tmp_path / "api_key").write_text(KEY + "\n")
    monkeypatch.setenv("REGRAFT_DATABASE_URL_FILE", str(tmp_path / "url"))
    command = ["keys", "adopt", f"admin={tmp_path / 'api_key'}"]
    for _ in range(2):
        done = CliRunner().invoke(make_app(), command)
        assert done.exit_code == 0, done.output
        assert "(api_key) is valid, scope admin" in done.output
    assert Keys(engine).find(KEY) is not None
    for bad, message in (("api_key", "is not SCOPE=FILE"), ("admin=/nowhere", "cannot be read")):
        assert message in str(CliRunner().invoke(make_app(), ["keys", "adopt", bad]).exception)
