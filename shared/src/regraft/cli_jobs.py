"""`regraft jobs ...`: the API from the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from regraft.client import Client
from regraft.errors import InvalidInputError
from regraft.jobfile import read_job_file
from regraft.planning import Plan
from regraft.planview import show_plan
from regraft.watch import Watcher, format_duration

DEFAULT_URL = "http://127.0.0.1:8000"

JobId = Annotated[str, typer.Argument(help="The job's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as it is.")]


def api_client() -> Client:
    """A client of the API that REGRAFT_API_URL names."""
    # Not the settings module: the command line works where only the client is installed.
    return Client(os.environ.get("REGRAFT_API_URL", DEFAULT_URL))


def submit(
    file: Annotated[Path, typer.Argument(help="Job file (YAML or JSON). Relative paths in it start from its folder.")],
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show progress until the job has ended.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the job and show its plan, and create nothing.")
    ] = False,
    plan_hash: Annotated[
        str | None, typer.Option(help="Create the job only if it still has this plan (see `regraft plan`).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job; exit status 1 if it is watched and does not succeed."""
    if dry_run:
        _dry_run(read_job_file(file), plan_hash, as_json)
        return
    with api_client() as client:
        job = client.create_job(read_job_file(file), plan_hash=plan_hash)
        typer.echo(json.dumps(job, indent=2) if as_json else f"{job['id']} is {job['status']}")
        for warning in job["warnings"]:
            typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)
        if watch and not _watch(client, job["id"]):
            raise typer.Exit(1)


def _dry_run(job: dict[str, Any], plan_hash: str | None, as_json: bool) -> None:
    with api_client() as client:
        answer = client.create_job(job, dry_run=True, plan_hash=plan_hash)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        show_plan(Plan.model_validate(answer))


def _watch(client: Client, job_id: str) -> bool:
    watcher = Watcher(sys.stdout)
    job: dict[str, Any] = {}
    for job in client.watch(job_id):
        watcher.show(job)
    return bool(job["status"] == "succeeded")


def list_(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only jobs with this label, key=value.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=100)] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    with api_client() as client:
        page = client.list_jobs(status=status, label=label, limit=limit)
    if as_json:
        typer.echo(json.dumps(page, indent=2))
        return
    typer.echo(f"{'ID':22} {'STATUS':11} {'PERCENT':>7}  {'CREATED':20} NAME")
    for job in page["data"]:
        created = job["created_at"][:19].replace("T", " ")
        typer.echo(f"{job['id']:22} {job['status']:11} {job['percent']:>6.0f}%  {created:20} {job['name']}")


def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job with its stages."""
    with api_client() as client:
        job = client.get_job(job_id)
    if as_json:
        typer.echo(json.dumps(job, indent=2))
        return
    typer.echo(f"{job['id']}  {job['name']}\nstatus: {job['status']} ({job['percent']:.0f}%)")
    if job["message"]:
        typer.echo(f"reason: {job['reason']} ({job['reason_class']})\n{job['message']}")
    for stage in job["stages"]:
        typer.echo(_stage_line(stage))


def _stage_line(stage: dict[str, Any]) -> str:
    progress = stage["progress"] or {}
    parts = [f"{stage['name']:9} {stage['status']:10}"]
    if progress.get("total_steps"):
        parts.append(f"{progress['step']}/{progress['total_steps']}")
    if stage["status"] == "running" and progress.get("seconds_left") is not None:
        parts.append(f"{format_duration(progress['seconds_left'])} left")
    if len(stage["attempts"]) > 1:
        parts.append(f"attempt {len(stage['attempts'])}")
    if stage["result"]:
        parts.append(str(stage["result"].get("uri", "")))
    return "  ".join(parts).rstrip()


def events(job_id: JobId, as_json: AsJson = False) -> None:
    """Print a job's history."""
    with api_client() as client:
        for event in client.events(job_id):
            when = event["created_at"][:19].replace("T", " ")
            typer.echo(json.dumps(event) if as_json else f"{when} {event['level']:5} {event['message']}")


def logs(
    job_id: JobId,
    stage: Annotated[str, typer.Argument(help="prepare, convert, train, evaluate or export.")],
    attempt: Annotated[int | None, typer.Option(help="Which attempt. Default: the newest.")] = None,
    search: Annotated[str | None, typer.Option(help="Only lines that hold this.")] = None,
) -> None:
    """Print what a stage has printed."""
    with api_client() as client:
        for line in client.log_lines(job_id, stage, attempt=attempt, search=search):
            typer.echo(line["text"])


def clone(
    job_id: JobId,
    overrides: Annotated[Path | None, typer.Option(help="File (YAML or JSON) with what is to be otherwise.")] = None,
) -> None:
    """Submit a job like another one."""
    changes = {} if overrides is None else yaml.safe_load(overrides.read_text())
    with api_client() as client:
        job = client.clone_job(job_id, changes)
    typer.echo(f"{job['id']} is {job['status']}")


def cancel(job_id: JobId) -> None:
    """Cancel a job."""
    _act(job_id, "cancel")


def pause(job_id: JobId) -> None:
    """Have a job save and stop, so that its device is free."""
    _act(job_id, "pause")


def resume(
    job_id: JobId,
    target: Annotated[
        str, typer.Option(help="Go on on another target: its kind, or its fields, e.g. '{kind: gpu, devices: 2}'.")
    ] = "",
) -> None:
    """Go on with a paused job."""
    _act(job_id, "resume", body={"target": _target(target)} if target else None)


def _target(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError("is neither a kind nor fields of one", field="--target", value=text) from error
    return found if isinstance(found, dict) else {"kind": text}


def retry(job_id: JobId) -> None:
    """Try a failed or cancelled job again, from the stage that failed."""
    _act(job_id, "retry")


def _act(job_id: str, action: str, *, body: dict[str, Any] | None = None) -> None:
    with api_client() as client:
        job = client.act(job_id, action, body=body)
    typer.echo(f"{job['id']} is {job['status']}")
