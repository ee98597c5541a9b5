"""`regraft params`: a complete params file for a Cerebras release, from a converted config and a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from regraft import recipes
from regraft.cerebrassite import CerebrasSite
from regraft.errors import InvalidInputError
from regraft.jobfile import read_job_file
from regraft.specs import CerebrasTargetSpec, JobSpec

if TYPE_CHECKING:
    from regraft_worker.conversion.formats import Format
    from regraft_worker.conversion.params_file import ParamsFile

_RECIPE = "gptj-6b-trc2"


def params(
    *,
    config: Annotated[Path, typer.Option(help="Converted YAML with the `model` section.")],
    release: Annotated[str, typer.Option(help="Cerebras release it is for: 1.7 ... 2.9.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    job: Annotated[Path | None, typer.Option(help="Job file; without one the recipe's figures are used.")] = None,
    recipe: Annotated[str, typer.Option(help="Recipe to use where no job is given.")] = _RECIPE,
    data_dir: Annotated[str, typer.Option(help="Folder that holds train and eval.")] = "",
    checkpoint: Annotated[Path | None, typer.Option(help="Converted .mdl that the run starts from.")] = None,
    model_dir: Annotated[
        str, typer.Option(help="Folder of the run, for a job whose target is cerebras.")
    ] = "model_dir",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a params file: flat sections up to release 2.2, the trainer form from 2.3 on.

    With a job whose target is `cerebras` it also has what the site's settings say of the cluster.
    """
    from regraft_worker.conversion.formats import format_named

    target, note = format_named(f"cs-{release.removeprefix('cs-')}", field="--release")
    if note:
        typer.echo(f"note: {note}", err=True)
    write_params(
        output,
        job=job,
        recipe=recipe,
        config=config,
        target=target,
        data_dir=data_dir,
        checkpoint=checkpoint,
        overwrite=overwrite,
        release=release.removeprefix("cs-"),
        model_dir=model_dir,
    )


def write_params(
    output: Path,
    *,
    job: Path | None,
    config: Path,
    target: Format,
    data_dir: str,
    checkpoint: Path | None,
    overwrite: bool = False,
    recipe: str = _RECIPE,
    release: str = "",
    model_dir: str = "",
) -> None:
    """Write the file and say so.

    Raises:
        InvalidInputError: the job is not valid, or asks for what the release cannot be told.
        ConflictError: the file is there already.
    """
    from regraft_worker.conversion.cs_config import read_section
    from regraft_worker.conversion.params_file import params_file
    from regraft_worker.conversion.parted import parted, write_text

    check_params(output, job=job, data_dir=data_dir, overwrite=overwrite, recipe=recipe)
    start = "" if checkpoint is None else str(checkpoint)
    spec, section = _job(job, recipe), read_section(config)
    if isinstance(spec.target, CerebrasTargetSpec):
        made = _for_the_cluster(spec, section, release or target.name.removeprefix("cs-"), data_dir, model_dir, start)
    else:
        made = params_file(spec, section, target=target, data_dir=data_dir, checkpoint=start)
    with parted(output.parent, output.name, overwrite=overwrite) as part:
        write_text(part / output.name, made.text())
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"Params saved to {output}")


def check_params(output: Path, *, job: Path | None, data_dir: str, overwrite: bool, recipe: str = _RECIPE) -> None:
    """Refuse what `write_params` would refuse whatever the checkpoint is, before anything is converted for it.

    Raises:
        InvalidInputError: the job is not valid, or there is no data folder.
        ConflictError: the file is there already.
    """
    from regraft_worker.conversion.parted import refuse_existing

    if not data_dir:
        raise InvalidInputError(
            "must be given", field="--data-dir", remedy="Name the folder that will hold train and eval."
        )
    _job(job, recipe)
    if not overwrite:
        refuse_existing(output)


def _for_the_cluster(
    job: JobSpec, section: Mapping[str, object], release: str, data_dir: str, model_dir: str, checkpoint: str
) -> ParamsFile:
    """The file of a job on the site's cluster, as its run would have it; without the labels of a run."""
    from regraft_worker.cerebras.options import options_of
    from regraft_worker.cerebras.rendering import Places, render
    from regraft_worker.conversion.params_file import ParamsFile

    assert isinstance(job.target, CerebrasTargetSpec), "asked for it"
    places = Places(
        data_dir=str(Path(data_dir).absolute()),
        model_dir=model_dir or "model_dir",
        max_sequence_length=job.dataset.max_sequence_length,
        checkpoint=checkpoint,
    )
    options = options_of(job.target, CerebrasSite(), labels={}, priority=job.priority)
    found = render(job.training, section, release=release, places=places, options=options)
    flags = [f"give the client {' '.join(found.flags)}: this release has no key for it"] if found.flags else []
    return ParamsFile(found.content, found.notes + flags)


def _job(path: Path | None, recipe: str) -> JobSpec:
    """The job in a file; its inputs need not exist, and without a file it is a recipe's."""
    if recipe not in recipes.names():
        raise InvalidInputError(
            "no such recipe", field="--recipe", value=recipe, remedy=f"There is: {', '.join(recipes.names())}."
        )
    nothing: dict[str, Any] = {
        "recipe": recipe,
        "dataset": {"uri": "none"},
        "base_checkpoint": {"uri": "none"},
        "target": {"kind": "cpu"},
    }
    try:
        return JobSpec.model_validate(read_job_file(path) if path else nothing)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(first["msg"], field=f"job file: {field}", value=first["input"]) from error
