"""The command line. Commands of the services are found by entry points: what is not installed is not offered."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from regraft import cli_doctor, cli_jobs, cli_keys, cli_operations, cli_plan, cli_recipes, cli_storage, discover
from regraft.errors import RegraftError

GROUPS = {
    "jobs": "Submit jobs and look after them, through the API.",
    "keys": "Make and revoke keys of the API.",
    "serve": "Run one process of a deployment; settings come from the environment.",
    "drain": "Maintenance: stop starting stages, and start again.",
    "sample": "Write sample inputs.",
    "trc2": "The documented preparation of TRC2, step by step.",
    "checkpoint": "Convert, describe and compare checkpoints.",
    "ledger": "Which samples a training run has read.",
    "recipes": "Named defaults for a job.",
    "create-hdf5": "HDF5 files with the arrays of the original tool, one command for each generation.",
}


def make_app() -> typer.Typer:
    """The whole command line, with whatever services are installed."""
    app = typer.Typer(
        name="regraft",
        help="Continued pre-training of language models as one request.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    groups: dict[str, typer.Typer] = {}
    for words, function in (*_own_commands().items(), *discover.commands().items()):
        group, _, name = words.rpartition(" ")
        if group and group not in groups:
            groups[group] = typer.Typer(help=GROUPS.get(group), no_args_is_help=True)
            app.add_typer(groups[group], name=group)
        kind = getattr(function, "command_class", None)
        (groups[group] if group else app).command(name, cls=kind)(function)
    return app


def main() -> None:
    """Entry point: an error of ours is one clear message and exit status 1, never a traceback."""
    try:
        make_app()()
    except RegraftError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)


def _own_commands() -> dict[str, Callable[..., Any]]:
    return {
        "up": up,
        "migrate": migrate,
        "serve dispatcher": serve_dispatcher,
        "drain on": cli_operations.drain_on,
        "drain off": cli_operations.drain_off,
        "limits": cli_operations.limits,
        "storage clean": cli_storage.clean,
        "plan": cli_plan.plan,
        "jobs submit": cli_jobs.submit,
        "jobs list": cli_jobs.list_,
        "jobs show": cli_jobs.show,
        "jobs events": cli_jobs.events,
        "jobs logs": cli_jobs.logs,
        "jobs cancel": cli_jobs.cancel,
        "recipes list": cli_recipes.list_,
        "recipes show": cli_recipes.show,
        "jobs pause": cli_jobs.pause,
        "jobs resume": cli_jobs.resume,
        "jobs retry": cli_jobs.retry,
        "jobs clone": cli_jobs.clone,
        "keys create": cli_keys.create,
        "keys adopt": cli_keys.adopt,
        "keys list": cli_keys.list_,
        "keys revoke": cli_keys.revoke,
        "doctor": cli_doctor.doctor,
    }


def up(
    home: Annotated[
        Path | None, typer.Option(help="Folder for all data. Default: REGRAFT_HOME, else ~/.regraft.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API. Default: REGRAFT_API_PORT, else 8000.")] = None,
) -> None:
    """Run everything on this machine: servers, API, dispatcher and workers, until Ctrl-C."""
    from regraft.localstack import run
    from regraft.settings import Settings

    given = {"home": home, "api_port": port}
    run(Settings(**{name: value for name, value in given.items() if value is not None}))  # type: ignore[arg-type]


def migrate() -> None:
    """Bring the database's schema up to date."""
    from regraft.jobstore import UNREACHABLE, make_engine
    from regraft.jobstore import migrate as upgrade
    from regraft.logs import log_to_stderr
    from regraft.settings import Settings

    settings = Settings()
    log_to_stderr(settings)
    try:
        upgrade(make_engine(settings))
    except UNREACHABLE as error:
        raise RegraftError(
            f"the database cannot be used: {str(error).splitlines()[0]}",
            field="REGRAFT_DATABASE_URL",
            remedy="Check its address, that it is up, and that user and password are those it was made with.",
        ) from error
    typer.echo("the schema is up to date")


def serve_dispatcher() -> None:
    """Send what the outbox holds and take stages back from silent workers, until stopped."""
    from regraft.dispatcher import serve
    from regraft.settings import Settings

    serve(Settings())


if __name__ == "__main__":
    main()
