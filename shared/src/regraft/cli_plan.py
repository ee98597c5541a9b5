"""`regraft plan`: what would happen to a job, by the API or, without a server, by this machine alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from regraft import cerebras_limits, planning
from regraft.cli_jobs import api_client
from regraft.client import UnreachableError
from regraft.errors import InvalidInputError
from regraft.jobfile import read_job_file
from regraft.planning import Offer, Plan
from regraft.planview import show_plan
from regraft.sizing import DEVICES, device_named
from regraft.specs import JobSpec
from regraft.specs.target import without_tags


def plan(
    file: Annotated[Path, typer.Argument(help="Job file (YAML or JSON). Relative paths in it start from its folder.")],
    local: Annotated[
        bool, typer.Option("--local", help="Ask no API: plan for this machine's processor, or for cards of the table.")
    ] = False,
    device: Annotated[
        list[str] | None, typer.Option(help="With --local: plan for this card, e.g. H100. May be given several times.")
    ] = None,
    storage: Annotated[Path | None, typer.Option(help="With --local: folder of published artifacts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show stages, memory, time and disk of a job before it is created; exit status 1 if it does not fit its target."""
    job = read_job_file(file)
    found = _local(job, device or [], storage) if local or device else _remote(job, storage)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_plan(found)
    asked = [target.fits for target in found.targets if target.asked]
    if asked and not any(fits is not False for fits in asked):
        raise typer.Exit(1)


def _remote(job: dict[str, Any], storage: Path | None) -> Plan:
    """The API's plan; this machine's own, said aloud, where none answers."""
    with api_client() as client:
        try:
            return Plan.model_validate(client.plan_job(job))
        except UnreachableError as error:
            typer.secho(f"{error.message}; planned without a server", err=True, fg=typer.colors.YELLOW)
    return _local(job, [], storage)


def _local(job: dict[str, Any], names: list[str], storage: Path | None) -> Plan:
    spec = _spec(job)
    cerebras_limits.check_job(spec)
    where = storage or Path(os.environ.get("REGRAFT_HOME", "~/.regraft")).expanduser() / "storage"
    return planning.make_plan(
        spec, planning.look(spec), offers=_offers(spec, names), history=(), storage=where.absolute().as_uri()
    )


def _offers(spec: JobSpec, names: list[str]) -> list[Offer]:
    """The named cards; else the processor and, for a job that asks for GPUs, every card of the table."""
    cards = planning.cards(devices=spec.target.devices)
    if names:
        wanted = [_named(name) for name in names]
        return [card for card in cards if card.name in wanted]
    return [planning.this_machine(), *(cards if spec.target.kind == "gpu" else [])]


def _named(name: str) -> str:
    device = device_named(name)
    if device is None:
        known = ", ".join(device.name for device in DEVICES)
        raise InvalidInputError("no such card in the table", field="--device", value=name, remedy=f"One of: {known}.")
    return device.name


def _spec(job: dict[str, Any]) -> JobSpec:
    try:
        return JobSpec.model_validate(job)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in without_tags(first["loc"]))
        raise InvalidInputError(
            first["msg"], field=field, value=first["input"], remedy="See the job's fields at /docs of the API."
        ) from error
