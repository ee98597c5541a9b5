"""`regraft prepare` and `regraft sample trc2`: data preparation from a command line, without any server.

Plain functions with typer annotations; the `regraft` program finds them by entry point and renders their errors.
Results go to stdout as JSON, progress to stderr. A run that is interrupted, or killed, goes on where it was when it is
asked for again. The trade-off: nobody but the caller does that; jobs that must survive a machine are submitted to the
API instead. What a command needs is imported when it runs, so that `regraft --help` stays fast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from regraft.errors import InvalidInputError
from regraft.ports import Level, NullProgress
from regraft.specs.stages import PrepareTask


def prepare(
    output_dir: Annotated[Path, typer.Option(help="Folder of datasets; the new one goes to <folder>/<address>.")],
    uri: Annotated[
        list[str] | None, typer.Option(help="The corpus: file, folder, glob or fsspec URL. May be repeated.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer directory or tokenizer.json.")] = None,
    options: Annotated[
        Path | None, typer.Option(help="YAML file with any fields of a job's `dataset`; what is given here wins.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Defaults: 'corrected', or 'reference', the documented steps for TRC2.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Reader of the corpus; default: trc2.")] = None,
    max_sequence_length: Annotated[int | None, typer.Option(help="Tokens in a training window; default: 512.")] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share of documents held out; default: 0.1.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="What is held out: 'chronological' (the latest; default), 'hashed' or 'last'.")
    ] = None,
    validation_uri: Annotated[
        list[str] | None, typer.Option(help="Documents to hold out, instead of a share. May be repeated.")
    ] = None,
    near_duplicates: Annotated[
        float | None, typer.Option(help="Likeness from which on a held-out document is trained on; default: 0.8.")
    ] = None,
    pack_sequences: Annotated[
        bool | None, typer.Option(help="Documents follow one another in a window (default), or each has its own.")
    ] = None,
    remainder: Annotated[
        str | None, typer.Option(help="A split's last, short window: 'pad' (default) or 'drop'.")
    ] = None,
    short_seq_prob: Annotated[float | None, typer.Option(help="Share of windows cut to a random length.")] = None,
    document_boundaries: Annotated[
        bool | None, typer.Option(help="Two more rows in each window, for attention within documents.")
    ] = None,
    special_tokens: Annotated[
        str | None, typer.Option(help="Special tokens spelt out in a document: 'text' (default) or 'recognised'.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Rows of the model's embedding, to check against.")] = None,
    examples_per_file: Annotated[int | None, typer.Option(help="Windows in one HDF5 file; default: 50000.")] = None,
    text_key: Annotated[
        list[str] | None, typer.Option(help="Column or JSON key of the text; repeated: joined by a newline.")
    ] = None,
    id_key: Annotated[str | None, typer.Option(help="Column or JSON key of the document's id.")] = None,
    date_key: Annotated[str | None, typer.Option(help="Column or JSON key of an ISO 8601 date or time.")] = None,
    documents: Annotated[
        str | None, typer.Option(help="For text: a document per 'file' (default) or 'paragraph'; for trc2: 'shard'.")
    ] = None,
    lines_per_shard: Annotated[int | None, typer.Option(help="Lines in a document of 'shard'; default: 10000.")] = None,
    max_bad_records: Annotated[
        int | None, typer.Option(help="Records that may be unreadable and are left out.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes at work; default: one a core, as memory goes.", min=1)
    ] = None,
) -> None:
    """Turn a corpus into train and eval HDF5 files."""
    flags = {
        "preset": preset,
        "uri": uri,
        "source": source,
        "tokenizer": tokenizer,
        "special_tokens": special_tokens,
        "max_sequence_length": max_sequence_length,
        "examples_per_file": examples_per_file,
        "validation.fraction": validation_fraction,
        "validation.order": split,
        "validation.uri": validation_uri,
        "validation.near_duplicates": near_duplicates,
        "packing.pack_sequences": pack_sequences,
        "packing.remainder": remainder,
        "packing.short_seq_prob": short_seq_prob,
        "packing.document_boundaries": document_boundaries,
        "reading.text_key": text_key,
        "reading.id_key": id_key,
        "reading.date_key": date_key,
        "reading.documents": documents,
        "reading.lines_per_shard": lines_per_shard,
        "reading.max_bad_records": max_bad_records,
    }
    from regraft_dataprep.resources import Resources, keep_to_one_thread

    keep_to_one_thread()
    from regraft_dataprep.start import prepare as run_prepare

    task = _task(_dataset(options, flags), vocab_size=vocab_size, output_uri=str(output_dir))
    result = run_prepare(task, _StderrProgress(), resources=Resources(processes=processes))
    typer.echo(result.model_dump_json(indent=2))


def sample_trc2(
    output: Annotated[Path, typer.Option(help="File to write.")],
    stories: Annotated[int, typer.Option(help="Number of stories.", min=1)] = 3000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 1,
) -> None:
    """Write an invented news corpus in the TRC2 format."""
    from regraft_dataprep.sample import write_trc2_sample

    counts = write_trc2_sample(output, stories=stories, seed=seed)
    typer.echo(json.dumps({"output": str(output), **counts}, indent=2))


def serve() -> None:
    """Run a data preparation worker: takes `prepare` stages from the queue until stopped."""
    from regraft_dataprep.tasks import serve as run_worker

    run_worker()


def _dataset(options: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the file, and over them the flags that were given, each by its place."""
    dataset = _read(options) if options else {}
    for where, value in flags.items():
        if value is None or value == []:
            continue
        section, _, key = where.rpartition(".")
        fields = dataset.setdefault(section, {}) if section else dataset
        if not isinstance(fields, dict):
            raise InvalidInputError("holds no mapping of fields", field=f"dataset.{section}", value=fields)
        fields[key] = value
    return dataset


def _read(path: Path) -> dict[str, Any]:
    """The content of a YAML file; paths in it count from the working directory, as those of the flags."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"cannot be read: {error}", field="--options", value=str(path)) from error
    if not isinstance(found, dict):
        raise InvalidInputError("holds no mapping of fields, such as uri: corpus", field="--options", value=str(path))
    return found


def _task(dataset: dict[str, Any], **values: Any) -> PrepareTask:
    tokenizer = dataset.get("tokenizer", "checkpoint")
    if tokenizer == "checkpoint":
        raise InvalidInputError(
            "there is no checkpoint here to take the tokenizer from",
            field="dataset.tokenizer",
            remedy="Name a tokenizer directory or tokenizer.json with --tokenizer.",
        )
    try:
        return PrepareTask.model_validate({"dataset": dataset, "tokenizer_uri": tokenizer, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(
            first["msg"], field=".".join(str(part) for part in first["loc"]), value=first["input"]
        ) from error


class _StderrProgress(NullProgress):
    """One line per report."""

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        shown = ", ".join(f"{name} {value:,.0f}" for name, value in metrics.items())
        typer.echo(f"{step:,} of {total or 0:,} documents, {tokens or 0:,} tokens ({shown})", err=True)

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        typer.echo(f"{level}: {message} {json.dumps(dict(data))}" if data else f"{level}: {message}", err=True)
