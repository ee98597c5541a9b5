"""Commands that look at checkpoints and change nothing: `regraft list`, `info`, `diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.errors import InvalidInputError

if TYPE_CHECKING:
    from regraft_worker.conversion.opened import Opened


def list_(
    model: Annotated[str, typer.Argument(help="Only this model: gptj, gpt-neox, or either with -headless.")] = "",
) -> None:
    """List the models and formats that can be converted."""
    from regraft.families import variant_named
    from regraft_worker.conversion.formats import pairs

    if model:
        variant_named(model, field="model")
    rows = [("model", "source formats", "target formats"), *(row for row in pairs() if model in ("", row[0]))]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def info(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file, an index, or a folder.")],
) -> None:
    """Say what a checkpoint is: format, encoding, family, tensors, parameters, dtypes, step, optimizer."""
    from regraft_worker.conversion.opened import open_checkpoint

    with open_checkpoint(checkpoint) as opened:
        rows = _facts(opened)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name.ljust(width)}  {value}")


def diff(
    left: Annotated[Path, typer.Argument(help="A checkpoint.")],
    right: Annotated[Path, typer.Argument(help="Another one.")],
    *,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest difference that counts as none.")] = 0.0,
) -> None:
    """Compare two checkpoints: names, shapes, dtypes, values; exit status 1 when they differ."""
    from regraft_worker.conversion.difference import differences
    from regraft_worker.conversion.opened import open_checkpoint

    with open_checkpoint(left) as one, open_checkpoint(right) as other:
        found = 0
        for difference in differences(one, other, tolerance=tolerance):
            typer.echo(str(difference))
            found += 1
        tensors = max(len(one.tensors), len(other.tensors))
    typer.echo(f"{found} differences in {tensors} tensors" if found else f"no difference in {tensors} tensors")
    if found:
        raise typer.Exit(1)


def _facts(opened: Opened) -> list[tuple[str, str]]:
    from regraft_worker.conversion.opened import parameters, recognise

    model = opened.model
    naming, family = recognise(model)
    beside = len(opened.tensors) - len(model)
    step = opened.global_step
    return [
        ("path", str(opened.path)),
        ("format", _format(opened) if naming else "unknown: its names are of no supported model"),
        ("encoding", opened.encoding + (f", {len(opened.files)} files" if len(opened.files) > 1 else "")),
        ("family", family.name if family else "unknown"),
        ("tensors", f"{len(model)}" + (f", and {beside} beside the model" if beside else "")),
        ("parameters", f"{parameters(opened):,}"),
        ("dtypes", ", ".join(f"{name} x {count}" for name, count in sorted(opened.dtypes.items())) or "none"),
        ("global step", "none" if step is None else f"{step:,}"),
        ("optimizer", "yes" if opened.has_optimizer else "no"),
    ]


def _format(opened: Opened) -> str:
    try:
        return opened.format().name
    except InvalidInputError:
        return "unknown"
