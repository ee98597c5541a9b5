"""A plan on a terminal: a line for each stage and target, memory and disk in GB (10^9 bytes)."""

from __future__ import annotations

import typer

from regraft.planning import Plan, TargetPlan
from regraft.watch import format_duration

GB = 1e9


def show_plan(plan: Plan) -> None:
    """Print what would happen to a job."""
    typer.echo(f"plan {plan.plan_hash}")
    if plan.work is not None:
        work = plan.work
        steps = "one pass, of unknown length" if work.steps is None else f"{work.steps} steps"
        epochs = "" if work.epochs is None else f", {work.epochs:.3g} epochs ({work.windows_from})"
        typer.echo(f"{work.parameters / 1e6:,.1f} M parameters, {steps}{epochs}")
    for stage in plan.stages:
        typer.echo(f"  {stage.name:9} {stage.expected:8} {stage.why}")
    for target in plan.targets:
        _show_target(target)
    if plan.disk is not None:
        typer.echo(f"disk: {plan.disk.total / GB:.1f} GB, {plan.disk.checkpoints / GB:.1f} of them checkpoints")
    for warning in plan.warnings:
        typer.secho(f"warning: {warning}", fg=typer.colors.YELLOW)


def _show_target(target: TargetPlan) -> None:
    memory, time = target.memory, target.time
    verdict = {True: "fits", False: "does not fit", None: "memory not known"}[target.fits]
    available = "" if memory.available is None else f" of {memory.available / GB:.1f}"
    line = f"{target.kind} ({target.devices} x {target.device}): {verdict}, {memory.peak / GB:.2f}{available} GB each"
    if target.micro_batch_size:
        line += f", micro-batch {target.micro_batch_size}"
    if time is not None:
        line += f", {time.tokens_per_second:,.0f} tokens/s"
        if time.seconds_low is not None and time.seconds_high is not None:
            line += f", {format_duration(time.seconds_low)} to {format_duration(time.seconds_high)}"
    typer.echo(line)
    for remedy in target.remedies:
        changes = ", ".join(f"{field}: {value}" for field, value in remedy.changes.items())
        typer.echo(f"    would fit with {changes} (micro-batch of {remedy.micro_batch_size})")
