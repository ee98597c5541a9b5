"""`regraft keys ...`: who may call the API.

With REGRAFT_DATABASE_URL set it works on the database, which is how the first key of a deployment is made; otherwise it
asks the API, which takes a key of the scope `admin`, as `regraft up` has one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli_jobs import api_client

if TYPE_CHECKING:
    from regraft.jobstore import Keys

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
    if not os.environ.get("REGRAFT_DATABASE_URL"):
        yield None
        return
    from regraft.jobstore import Keys, make_engine
    from regraft.settings import Settings

    engine = make_engine(Settings())
    try:
        yield Keys(engine, project=project)
    finally:
        engine.dispose()


def _scope(name: str) -> Any:
    from regraft.errors import InvalidInputError
    from regraft.jobstore import Scope

    if name not in list(Scope):
        remedy = f"Use one of: {', '.join(Scope)}."
        raise InvalidInputError("there is no such scope", field="--scope", value=name, remedy=remedy)
    return Scope(name)
