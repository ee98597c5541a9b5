"""`regraft keys ...`: who may call the API.

With REGRAFT_DATABASE_URL set it works on the database, which is how the first key of a deployment is made; otherwise it
asks the API, which takes a key of the scope `admin`, as `regraft up` has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli_jobs import api_client
from regraft.environment import variable
from regraft.errors import InvalidInputError

if TYPE_CHECKING:
    from regraft.jobstore import Keys, Scope

PROJECT = typer.Option(help="Project whose jobs the key opens. Only with REGRAFT_DATABASE_URL.")


def create(
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    scope: Annotated[str, typer.Option(help="read, write or admin; each may do what those before it may.")] = "read",
    days: Annotated[int | None, typer.Option(help="How long it is valid. Default: until it is revoked.", min=1)] = None,
    project: Annotated[str, PROJECT] = "default",
) -> None:
    """Make a key and print it, this once: only its SHA-256 is kept."""
    with _keys(project) as keys:
        if keys is None:
            with api_client() as client:
                made = client.create_key(name=name, scope=scope, days=days)
            key_id, key = made["id"], made["key"]
        else:
            row, key = keys.create(name=name, scope=_scope(scope), lifetime=timedelta(days=days) if days else None)
            key_id = row.id
    typer.echo(key)
    typer.echo(f"this is the only time that {key_id} is shown", err=True)


def adopt(
    keys: Annotated[
        list[str], typer.Argument(help="SCOPE=FILE, e.g. admin=/run/secrets/api_key.", metavar="SCOPE=FILE")
    ],
    project: Annotated[str, PROJECT] = "default",
) -> None:
    """Make keys valid that were made elsewhere, as a deployment's secrets are. Needs REGRAFT_DATABASE_URL.

    A key is `rgk_`, 12 hexadecimal digits, `_` and 32 letters or digits. One that is valid already is left alone, so
    this can run at every start.
    """
    wanted = [_named(text) for text in keys]
    with _keys(project) as store:
        if store is None:
            raise InvalidInputError("keys are adopted in the database", field="REGRAFT_DATABASE_URL", value="")
        for scope, path, key in wanted:
            row = store.adopt(key, name=path.name, scope=scope)
            typer.echo(f"{row.id} ({path.name}) is valid, scope {row.scope}")


def _named(text: str) -> tuple[Scope, Path, str]:
    """Scope, file and key of one argument."""
    scope, equals, place = text.partition("=")
    if not equals:
        raise InvalidInputError("is not SCOPE=FILE", field="keys adopt", value=text)
    try:
        return _scope(scope), Path(place), Path(place).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidInputError(f"cannot be read: {error.strerror}", field="keys adopt", value=place) from error


def list_(project: Annotated[str, PROJECT] = "default") -> None:
    """List keys."""
    typer.echo(f"{'ID':22} {'PREFIX':17} {'SCOPE':6} {'STATE':8} {'LAST USED':20} NAME")
    for row in _rows(project):
        used = str(row["last_used_at"] or "never")[:19].replace("T", " ")
        state = "revoked" if row["revoked_at"] else "valid"
        typer.echo(f"{row['id']:22} {row['prefix']:17} {row['scope']:6} {state:8} {used:20} {row['name']}")


def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id.")], project: Annotated[str, PROJECT] = "default"
) -> None:
    """Revoke a key; running API processes know at once."""
    with _keys(project) as keys:
        if keys is not None:
            keys.revoke(key_id)
        else:
            with api_client() as client:
                client.revoke_key(key_id)
    typer.echo(f"{key_id} opens nothing any more")


def _rows(project: str) -> Iterator[dict[str, Any]]:
    after: str | None = None
    more = True
    with _keys(project) as keys, api_client() as client:
        while more:
            if keys is None:
                page = client.get("/keys", limit=100, **({"after": after} if after else {}))
                rows, more = page["data"], page["has_more"]
            else:
                found, more = keys.page(after=after, limit=100)
                rows = [row.__dict__ for row in found]
            yield from rows
            after = rows[-1]["id"] if rows else None


@contextmanager
def _keys(project: str) -> Iterator[Keys | None]:
    """The keys in the database, None if it is the API that must be asked."""
    if not variable("REGRAFT_DATABASE_URL"):
        yield None
        return
    from regraft.jobstore import Keys, make_engine
    from regraft.settings import Settings

    engine = make_engine(Settings())
    try:
        yield Keys(engine, project=project)
    finally:
        engine.dispose()


def _scope(name: str) -> Scope:
    from regraft.jobstore import Scope

    if name not in list(Scope):
        remedy = f"Use one of: {', '.join(Scope)}."
        raise InvalidInputError("there is no such scope", field="--scope", value=name, remedy=remedy)
    return Scope(name)
