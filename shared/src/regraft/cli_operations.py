"""`regraft drain` and `regraft limits`: what an operator sets, in the database that the settings name,
or that of a running `regraft up`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from regraft.jobstore import Operations


def _operations() -> Operations:
    from regraft.jobstore import Operations, make_engine
    from regraft.localstack import with_running_servers
    from regraft.settings import Settings

    return Operations(make_engine(with_running_servers(Settings())))


def drain_on(
    note: Annotated[str | None, typer.Option(help="Why, for whoever looks.")] = None,
) -> None:
    """Start no further stage anywhere; what runs goes on, and jobs are accepted and wait."""
    _operations().drain(True, note=note)
    typer.echo("draining: nothing new is started; `regraft drain off` ends it")


def drain_off() -> None:
    """Start stages again."""
    _operations().drain(False)
    typer.echo("stages are started again")


def limits(
    project: Annotated[str, typer.Argument(help="The project's id.")],
    unfinished: Annotated[
        int | None, typer.Option(min=0, help="Jobs that have not ended; a further one is refused. Default: any number.")
    ] = None,
    running: Annotated[
        int | None, typer.Option(min=0, help="Jobs that run at a time; further ones wait. Default: any number.")
    ] = None,
) -> None:
    """Set how much a project may have at a time; what is not given has no limit."""
    _operations().limit(project, max_unfinished=unfinished, max_running=running)
    typer.echo(f"{project}: unfinished {_shown(unfinished)}, running {_shown(running)}")


def _shown(limit: int | None) -> str:
    return "without limit" if limit is None else f"at most {limit}"
