"""`regraft doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED}


def doctor(
    home: Annotated[Path | None, typer.Option(help="Folder of a `regraft up`. Default: REGRAFT_HOME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at database, migrations, broker, storage, disk and devices; exit status 1 if one of them fails.

    Settings come from the environment; those of a running `regraft up` from its folder.
    """
    from regraft import doctor as surgery
    from regraft.localstack import with_running_servers
    from regraft.settings import Settings

    settings = Settings() if home is None else Settings(home=home)
    findings = list(surgery.examine(with_running_servers(settings)))
    if as_json:
        typer.echo(json.dumps(surgery.as_json(findings), indent=2))
    else:
        for finding in findings:
            typer.secho(f"{finding.state:8}", fg=COLOURS[finding.state], nl=False)
            typer.echo(f"{finding.name:11} {finding.message}")
            if finding.remedy:
                typer.echo(f"{'':19} {finding.remedy}")
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)
