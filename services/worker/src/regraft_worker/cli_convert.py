"""Commands about checkpoints: `regraft convert`, `regraft export`, `regraft sample checkpoint`.

`convert` keeps the options and the file names of the Model Zoo's converter for the formats it knows, so that scripts
written for that one go on working. torch is imported when a command runs, not when the command line is built.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from regraft.errors import ConflictError, InvalidInputError
from regraft.families import family_named
from regraft.ports import NullProgress

if TYPE_CHECKING:
    from regraft_worker.conversion.source import Source
    from regraft_worker.conversion.verify import Steps

FORMATS = ("hf", "cs-1.8")


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Weights (.bin, .safetensors, .index.json, .mdl) or a folder.")],
    *,
    src_fmt: Annotated[str, typer.Option(help="Format of the checkpoint: hf or cs-1.8.")],
    tgt_fmt: Annotated[str, typer.Option(help="Format to write: hf or cs-1.8.")],
    config: Annotated[Path | None, typer.Option(help="Its config.json or YAML; found beside it by default.")] = None,
    model: Annotated[str | None, typer.Option(help="gptj or gpt-neox; detected by default.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder to write to; beside the input by default.")] = None,
) -> None:
    """Convert a checkpoint between Hugging Face and Cerebras formats."""
    _check_formats(src_fmt, tgt_fmt)
    source, stem, config_stem = _open(checkpoint, config, src_fmt=src_fmt, model=model)
    folder = output_dir or (checkpoint if checkpoint.is_dir() else checkpoint.parent)
    folder.mkdir(parents=True, exist_ok=True)
    if tgt_fmt == "hf":
        written, written_config = _to_hf(source, folder / f"{stem}_to_hf")
    else:
        written = folder / f"{stem}_to_{tgt_fmt}.mdl"
        written_config = folder / f"{config_stem}_to_{tgt_fmt}.yaml"
        _to_cs(source, written, written_config)
    typer.echo(f"Checkpoint saved to {written}")
    typer.echo(f"Config saved to {written_config}")


def export(
    *,
    checkpoint: Annotated[Path, typer.Option(help="Hugging Face model folder, such as a training checkpoint.")],
    output_dir: Annotated[Path, typer.Option(help="Folder that gets one folder per format.")],
    formats: Annotated[list[str], typer.Option("--format", help="hf or cs-1.8; may be repeated.")],
) -> None:
    """Export a trained checkpoint, verified by reading it back."""
    from regraft.specs.stages import ExportTask
    from regraft_worker.conversion.export import export as run_export

    for name in formats:
        _check_format("--format", name)
    unique = tuple(dict.fromkeys(formats))
    task = ExportTask.model_validate(
        {"checkpoint_uri": str(checkpoint), "formats": unique, "output_uri": str(output_dir)}
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


def _open(checkpoint: Path, config: Path | None, *, src_fmt: str, model: str | None) -> tuple[Source, str, str]:
    """The source, and the stems that its files give to the names of what is written."""
    from regraft_worker.conversion import cs
    from regraft_worker.conversion.source import open_cs, open_hf

    family = family_named(model, field="--model") if model else None
    if src_fmt == "hf":
        source = open_hf(checkpoint, config_file=config)
        stem = "pytorch_model" if checkpoint.is_dir() else checkpoint.name.partition(".")[0]
        config_stem = config.stem if config else "config"
    else:
        checkpoint = checkpoint / cs.MODEL_FILE if checkpoint.is_dir() else checkpoint
        config = config or cs.config_beside(checkpoint)
        source = open_cs(checkpoint, config, family=family)
        stem, config_stem = checkpoint.stem, config.stem
    if family is not None and family != source.family:
        raise InvalidInputError(
            f"the checkpoint is of the family {source.family.name}",
            field="--model",
            value=model,
            remedy="Leave it out.",
        )
    return source, stem, config_stem


def _to_cs(source: Source, model: Path, config: Path) -> None:
    from regraft_worker.conversion.export import write_cs

    _refuse_existing(model, config)
    with TemporaryDirectory(dir=model.parent, prefix=".part-") as part:
        write_cs(source, Path(part) / model.name, Path(part) / config.name, _steps(source))
        for path in (config, model):
            (Path(part) / path.name).rename(path)


def _to_hf(source: Source, folder: Path) -> tuple[Path, Path]:
    from regraft_worker.conversion import hf
    from regraft_worker.conversion.verify import compare, finite

    _refuse_existing(folder)
    with TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        written, steps = Path(part) / folder.name, _steps(source)
        tensors = finite(source.tensors(), steps)
        hf.write_checkpoint(written, tensors, config=source.config, extra_files_from=source.folder)
        compare(source.tensors(), hf.read_tensors(written), steps)
        written.rename(folder)
    return folder, folder / "config.json"


def _steps(source: Source) -> Steps:
    from regraft_worker.conversion.verify import Steps

    return Steps(NullProgress(), total=2 * len(source.names))


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise ConflictError(
                "the output is there already",
                field="--output-dir",
                value=str(path),
                remedy="Choose another folder, or delete it.",
                reason="output_exists",
            )


def _check_formats(src_fmt: str, tgt_fmt: str) -> None:
    _check_format("--src-fmt", src_fmt)
    _check_format("--tgt-fmt", tgt_fmt)
    if src_fmt == tgt_fmt:
        raise InvalidInputError(
            "source and target are the same format", field="--tgt-fmt", value=tgt_fmt, remedy="Choose the other one."
        )


def _check_format(option: str, name: str) -> None:
    if name not in FORMATS:
        raise InvalidInputError(
            "this format is not supported", field=option, value=name, remedy=f"Use one of: {', '.join(FORMATS)}."
        )
