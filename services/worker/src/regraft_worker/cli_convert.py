"""Commands that convert checkpoints: `regraft convert`, `convert-config`, `export`, `sample checkpoint`.

`convert` and `convert-config` keep the options, file names and last words of the Model Zoo's converter, so that scripts
written for that one go on working; they ask nothing, whatever stdin is. torch is imported when a command runs, not when
the command line is built.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from regraft.errors import InvalidInputError, RegraftError

if TYPE_CHECKING:
    from regraft_worker.conversion.formats import Format

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

_Model = Annotated[str, typer.Option("--model", help="gptj, gpt-neox, or either with -headless; detected by default.")]
_SrcFmt = Annotated[str, typer.Option("--src-fmt", help="Format to read: hf, cs-1.7 ... cs-2.9, or cs-auto.")]
_TgtFmt = Annotated[str, typer.Option("--tgt-fmt", help="Format to write: hf, cs-1.7 ... cs-2.9.")]
_OutputDir = Annotated[Path | None, typer.Option(help="Folder to write to; beside the input by default.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show where a failure came from.")]


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Weights (.bin, .safetensors, .index.json, .mdl) or a folder.")],
    *,
    src_fmt: _SrcFmt,
    tgt_fmt: _TgtFmt,
    config: Annotated[Path | None, typer.Option(help="Its config.json or YAML; found beside it by default.")] = None,
    model: _Model = "",
    output_dir: _OutputDir = None,
    drop_unmatched_keys: Annotated[
        bool, typer.Option("--drop-unmatched-keys", help="Leave out keys and tensors that are not known.")
    ] = False,
    hf_shard_size: Annotated[str, typer.Option(help="Largest file of a Hugging Face checkpoint.")] = "10GB",
    export_safetensors: Annotated[
        bool, typer.Option("--export-safetensors", help="Write safetensors instead of .bin.")
    ] = False,
    export_h5_checkpoint: Annotated[
        bool, typer.Option("--export-h5-checkpoint", help="Write HDF5 where the release reads it.")
    ] = False,
    no_progress_bar: Annotated[bool, typer.Option("--no-progress-bar", help="Show no progress.")] = False,
    debug: _Debug = False,
    overwrite: _Overwrite = False,
    no_transformers: Annotated[
        bool, typer.Option("--no-transformers", help="Prove it without asking transformers, where that is installed.")
    ] = False,
    params_out: Annotated[Path | None, typer.Option(help="Also write a complete params file here.")] = None,
    job: Annotated[Path | None, typer.Option(help="Job file that the params file is filled from.")] = None,
    data_dir: Annotated[str, typer.Option(help="Folder with train and eval, for the params file.")] = "",
) -> None:
    """Convert a checkpoint and its config between Hugging Face and Cerebras formats."""
    from regraft_worker.cli_params import check_params, write_params
    from regraft_worker.conversion.formats import format_named
    from regraft_worker.conversion.in_transformers import SHARE
    from regraft_worker.conversion.transfer import transfer
    from regraft_worker.terminal import byte_progress

    with _conversion(debug):
        if params_out is not None:
            _check_params_target(tgt_fmt)
            check_params(params_out, job=job, data_dir=data_dir, overwrite=overwrite)
        with byte_progress(show=not no_progress_bar) as progress:
            done = transfer(
                checkpoint,
                config=config or _config_beside(checkpoint, src_fmt),
                model=model,
                src_fmt=src_fmt,
                tgt_fmt=tgt_fmt,
                output_dir=output_dir or (checkpoint if checkpoint.is_dir() else checkpoint.parent),
                drop_unmatched_keys=drop_unmatched_keys,
                hf_shard_size=_bytes(hf_shard_size),
                export_safetensors=export_safetensors,
                export_h5=export_h5_checkpoint,
                progress=progress,
                overwrite=overwrite,
                transformers_share=0.0 if no_transformers else SHARE,
            )
        _tell(done.notes)
        typer.echo(done.proof, err=True)
        typer.echo(f"Checkpoint saved to {done.checkpoint}")
        typer.echo(f"Config saved to {done.config}")
        if params_out is not None:
            target, _ = format_named(tgt_fmt, field="--tgt-fmt")
            write_params(
                params_out,
                job=job,
                config=done.config,
                target=target,
                data_dir=data_dir,
                checkpoint=done.checkpoint,
                overwrite=overwrite,
            )


def convert_config(
    config: Annotated[Path, typer.Argument(help="A config.json, or a YAML with a `model` section.")],
    *,
    src_fmt: _SrcFmt,
    tgt_fmt: _TgtFmt,
    model: _Model = "",
    output_dir: _OutputDir = None,
    debug: _Debug = False,
    overwrite: _Overwrite = False,
) -> None:
    """Convert a config alone; keys that are not known are left out and named."""
    from regraft.families import variant_named
    from regraft_worker.conversion.config_files import convert_config as convert_file
    from regraft_worker.conversion.formats import format_named
    from regraft_worker.conversion.parted import parted, write_text

    with _conversion(debug):
        source = _config_format(config, src_fmt)
        target, note = format_named(tgt_fmt, field="--tgt-fmt")
        family = variant_named(model) if model else None
        converted = convert_file(config, model=family, source=source, target=target, drop=True)
        suffix = "yaml" if target.is_cs else "json"
        name = f"{config.stem}_to_{target.name}.{suffix}"
        folder = output_dir or config.parent
        with parted(folder, name, overwrite=overwrite) as part:
            write_text(part / name, converted.text)
        _tell((note, *converted.notes))
        typer.echo(f"Config saved to {folder / name}")


def export(
    *,
    checkpoint: Annotated[Path, typer.Option(help="Hugging Face model folder, such as a training checkpoint.")],
    output_dir: Annotated[Path, typer.Option(help="Folder that gets one folder per format.")],
    formats: Annotated[list[str], typer.Option("--format", help="hf, cs-1.7 ... cs-2.9; may be repeated.")],
    headless: Annotated[
        bool, typer.Option("--headless", help="The hf export without the language-model head.")
    ] = False,
) -> None:
    """Export a trained checkpoint, proven by reading it back and computing with it."""
    from regraft.formats import FORMAT_NAMES, check_headless
    from regraft.specs.stages import ExportTask
    from regraft_worker.conversion.export import export as run_export

    for name in formats:
        if name not in FORMAT_NAMES:
            known = ", ".join(FORMAT_NAMES)
            raise InvalidInputError(
                "this format is not exported", field="--format", value=name, remedy=f"Use one of: {known}."
            )
    unique = tuple(dict.fromkeys(formats))
    try:
        check_headless(unique, headless=headless)
    except ValueError as error:
        raise InvalidInputError(
            str(error), field="--headless", value=", ".join(unique), remedy="Leave it out, or add --format hf."
        ) from error
    task = ExportTask.model_validate(
        {"checkpoint_uri": str(checkpoint), "formats": unique, "output_uri": str(output_dir), "headless": headless}
    )
    for name, uri in run_export(task).artifacts.items():
        typer.echo(f"{name} saved to {uri}")


def sample_checkpoint(
    family: Annotated[Literal["gptj", "gptneox"], typer.Argument(help="Kind of model.")],
    *,
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    tokenizer_text: Annotated[Path | None, typer.Option(help="Text to train the tokenizer on.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Rows of the embedding.")] = 512,
    hidden_size: Annotated[int, typer.Option(help="Width.")] = 64,
    num_layers: Annotated[int, typer.Option(help="Depth.")] = 2,
    num_heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    max_position_embeddings: Annotated[int, typer.Option(help="Longest sequence.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    std: Annotated[float | None, typer.Option(help="Spread of the weights; 0.02 by default.")] = None,
) -> None:
    """Write a tiny untrained model for trying things out."""
    from regraft_worker.sample import write_sample_checkpoint

    write_sample_checkpoint(
        output,
        family=family,
        tokenizer_text=tokenizer_text,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        max_position_embeddings=max_position_embeddings,
        seed=seed,
        std=std,
    )
    typer.echo(f"Checkpoint saved to {output}")


@contextmanager
def _conversion(debug: bool) -> Iterator[None]:
    """The original's last words on failure; what failed is the error's own message."""
    try:
        yield
    except KeyboardInterrupt as error:
        _tell(_notes_of(error))
        raise
    except (RegraftError, OSError) as error:
        _tell(_notes_of(error))
        if debug:
            typer.echo(traceback.format_exc(), err=True)
        typer.echo("Conversion failed.")
        if isinstance(error, RegraftError):
            raise
        raise InvalidInputError(
            f"the system said: {error.strerror}",
            field="--output-dir",
            value=error.filename,
            remedy="Make room, or choose a folder that can be written to.",
            reason="system_error",
        ) from error


def _config_beside(checkpoint: Path, src_fmt: str) -> Path:
    """The config of a checkpoint that comes without one."""
    from regraft.checkpoint_files import config_beside

    if src_fmt == "hf":
        return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "config.json"
    models = sorted(checkpoint.glob("*.mdl")) if checkpoint.is_dir() else [checkpoint]
    if len(models) != 1:
        raise InvalidInputError(
            f"the folder has {len(models)} files .mdl",
            field="checkpoint",
            value=str(checkpoint),
            remedy="Name the file.",
        )
    return config_beside(models[0])


def _config_format(config: Path, name: str) -> Format:
    """A config says little of its release, so `cs-auto` is whatever the YAML was written for: all are read alike."""
    from regraft_worker.conversion.formats import AUTO, FORMATS, NEWEST, format_named

    return FORMATS[NEWEST] if name == AUTO else format_named(name, field="--src-fmt")[0]


def _check_params_target(name: str) -> None:
    from regraft_worker.conversion.formats import format_named

    if not format_named(name, field="--tgt-fmt")[0].is_cs:
        raise InvalidInputError(
            "params files are for Cerebras releases",
            field="--params-out",
            value=name,
            remedy="Leave it out, or convert to a Cerebras format.",
        )


def _bytes(text: str) -> int:
    """`10GB` in bytes; units of a thousand, or of 1024 with an `i`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise InvalidInputError("is no size", field="--hf-shard-size", value=text, remedy="Write 10GB or 500MB.")
    return size


def _notes_of(error: BaseException) -> tuple[str, ...]:
    return tuple(getattr(error, "__notes__", ()))


def _tell(notes: tuple[str, ...]) -> None:
    for note in filter(None, notes):
        typer.echo(f"note: {note}", err=True)
