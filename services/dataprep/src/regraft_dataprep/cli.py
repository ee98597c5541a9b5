"""`regraft prepare` and `regraft sample trc2`: data preparation from a command line, without any server.

Plain functions with typer annotations; the `regraft` program finds them by entry point and renders their errors.
Results go to stdout as JSON, progress to stderr. The trade-off: a run that is interrupted starts anew; jobs that must
survive a machine are submitted to the API instead. What a command needs is imported when it runs, so that
`regraft --help` stays fast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from regraft.errors import InvalidInputError
from regraft.ports import Level, NullProgress
from regraft.specs.stages import PrepareTask


def prepare(
    uri: Annotated[list[str], typer.Option(help="The corpus: file, folder, glob or fsspec URL. May be repeated.")],
    tokenizer: Annotated[str, typer.Option(help="Tokenizer directory or tokenizer.json.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of datasets; the new one goes to <folder>/<address>.")],
    source: Annotated[str, typer.Option(help="Reader of the corpus.")] = "trc2",
    max_sequence_length: Annotated[int, typer.Option(help="Tokens in a training window.")] = 512,
    validation_fraction: Annotated[float, typer.Option(help="Share of the documents, the latest, held out.")] = 0.1,
    vocab_size: Annotated[int | None, typer.Option(help="Rows of the model's embedding, to check against.")] = None,
    examples_per_file: Annotated[int, typer.Option(help="Windows in one HDF5 file.")] = 50_000,
    text_key: Annotated[
        list[str] | None, typer.Option(help="Column or JSON key of the text; repeated: joined by a newline.")
    ] = None,
    id_key: Annotated[str | None, typer.Option(help="Column or JSON key of the document's id.")] = None,
    date_key: Annotated[str | None, typer.Option(help="Column or JSON key of an ISO 8601 date or time.")] = None,
    documents: Annotated[str, typer.Option(help="For text: a document per 'file' or per 'paragraph'.")] = "file",
    max_bad_records: Annotated[int, typer.Option(help="Records that may be unreadable and are left out.")] = 0,
) -> None:
    """Turn a corpus into train and eval HDF5 files."""
    from regraft_dataprep.pipeline import prepare as run_prepare

    dataset = {
        "source": source,
        "uri": uri,
        "reading": {
            "text_key": text_key or None,
            "id_key": id_key,
            "date_key": date_key,
            "documents": documents,
            "max_bad_records": max_bad_records,
        },
        "tokenizer": tokenizer,
        "max_sequence_length": max_sequence_length,
        "validation": {"fraction": validation_fraction},
        "examples_per_file": examples_per_file,
    }
    result = run_prepare(
        _task(dataset=dataset, tokenizer_uri=tokenizer, vocab_size=vocab_size, output_uri=str(output_dir)),
        _StderrProgress(),
    )
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


def _task(**values: Any) -> PrepareTask:
    try:
        return PrepareTask.model_validate(values)
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
