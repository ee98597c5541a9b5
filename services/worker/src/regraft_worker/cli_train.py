"""`regraft train` and `regraft evaluate`: the cores on this machine, without a server.

Progress goes to standard error, one line a report; the result goes to standard output as JSON. Ctrl-C and SIGTERM
save and stop, and the same command goes on from there. For runs that shall outlive a terminal, send a job instead.

Torch is imported when a command runs, so that `regraft --help` stays fast.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from regraft.errors import InvalidInputError
from regraft.ports import Level, NullProgress
from regraft.specs import EvaluateTask, TargetSpec, TrainingSpec, TrainTask
from regraft.specs.monitoring import MEASURED

_NOT_SHOWN = MEASURED - {"tokens_per_second", "mfu"}
_Dataset = Annotated[Path, typer.Option(help="Folder with train/*.h5 and eval/*.h5.")]
_Output = Annotated[Path, typer.Option(help="Folder to write to.")]
_Target = Annotated[str, typer.Option(help="Hardware to compute on.")]


def train(
    dataset: _Dataset,
    checkpoint: Annotated[Path, typer.Option(help="Hugging Face directory to start from.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of the run; one found there is continued.")],
    target: _Target = "cpu",
    devices: Annotated[int, typer.Option(help="Devices of this machine, with a process each.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, single, ddp or fsdp. Auto shards where there are several.")] = (
        "auto"
    ),
    params: Annotated[
        Path | None, typer.Option(help="YAML file with the `training` section of a job; options override it.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimiser steps. Default: one pass.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences in one step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of the default schedule.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, or on a GPU fp16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample order and of dropout.")] = None,
) -> None:
    """Continue the pre-training of a checkpoint on a prepared dataset."""
    given = {
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "seed": seed,
    }
    training = _training(params, {name: value for name, value in given.items() if value is not None})
    task = TrainTask(
        dataset_uri=str(dataset),
        checkpoint_uri=str(checkpoint),
        training=training,
        target=_target(target, devices=devices, strategy=strategy),
        output_uri=str(output_dir),
    )
    from regraft_worker.launch import train as train_core

    typer.echo(train_core(task, TerminalProgress()).model_dump_json(indent=2))


def evaluate(
    dataset: _Dataset,
    checkpoint: Annotated[list[str], typer.Option(help="NAME=DIR; names `base` and `trained` are compared.")],
    output_dir: _Output,
    dataset_set: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=DIR; another set to score, such as general=DIR, for the forgetting table."),
    ] = None,
    max_windows: Annotated[int | None, typer.Option(min=1, help="Score the first so many windows of each set.")] = None,
    target: _Target = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at a time.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or on a GPU fp16.")] = "fp32",
) -> None:
    """Score checkpoints on the held-out windows of a prepared dataset, and on other sets beside it.

    The result goes to standard output as JSON, and as a table to standard error.
    """
    task = _evaluate_task(
        dataset_uri=str(dataset),
        checkpoints=dict(_named(item, field="checkpoint") for item in checkpoint),
        sets=dict(_named(item, field="set") for item in dataset_set or ()),
        max_windows=max_windows,
        batch_size=batch_size,
        precision=precision,
        target=_target(target),
        output_uri=str(output_dir),
    )
    from regraft_worker.trainer.evaluate import evaluate as evaluate_core
    from regraft_worker.trainer.forgetting import markdown

    result = evaluate_core(task, TerminalProgress())
    typer.echo(markdown(result), err=True)
    typer.echo(result.model_dump_json(indent=2))


class TerminalProgress(NullProgress):
    """A `Progress` for a person at a terminal; from now on, Ctrl-C and SIGTERM ask the core to stop."""

    def __init__(self) -> None:
        self._stop = False
        self._first: tuple[int, float] | None = None
        self._printed = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        # A report with numbers is asked for; one that only says how far it is comes once a second.
        shown = {name: value for name, value in metrics.items() if name not in _NOT_SHOWN}
        if (metrics and not shown) or (not metrics and step != total and time.monotonic() - self._printed < 1.0):
            return
        self._printed = time.monotonic()
        parts = [f"step {step}/{total}" if total else f"step {step}"]
        if tokens is not None:
            parts.append(f"tokens {tokens:,}")
        parts += [f"{name} {value:.5g}" for name, value in shown.items()]
        parts += self._time_left(step, total)
        typer.echo("  ".join(parts), err=True)

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        typer.echo(f"{kind}  {uri}", err=True)

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        typer.echo(message if level == "info" else f"{level}: {message}", err=True)

    def should_stop(self) -> bool:
        return self._stop

    def may_leave(self) -> bool:
        return False

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stop = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        typer.echo("stopping after this step", err=True)

    def _time_left(self, step: int, total: int | None) -> list[str]:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        done = step - self._first[0]
        if total is None or done <= 0:
            return []
        return [f"{(now - self._first[1]) / done * (total - step):,.0f} s left"]


def _training(params: Path | None, given: Mapping[str, object]) -> TrainingSpec:
    options = {**(_section(params) if params else {}), **given}
    if "learning_rate" in given and options.get("schedule") is not None:
        raise InvalidInputError(
            "has no effect on a schedule given part by part",
            field="learning_rate",
            value=given["learning_rate"],
            remedy="Change the schedule in the file, or remove it.",
        )
    try:
        return TrainingSpec.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("training", *first["loc"]))
        raise InvalidInputError(first["msg"], field=field, value=first["input"]) from error


def _section(params: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(params.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInputError(f"cannot be read: {error}", field="params", value=str(params)) from error
    section = found.get("training") if isinstance(found, dict) else None
    if not isinstance(section, dict):
        raise InvalidInputError("has no `training` section", field="params", value=str(params))
    return section


def _evaluate_task(**fields: Any) -> EvaluateTask:
    try:
        return EvaluateTask.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise InvalidInputError(first["msg"], field=field, value=first["input"]) from error


def _target(kind: str, *, devices: int = 1, strategy: str = "auto") -> TargetSpec:
    given = {"kind": kind, "devices": devices, "strategy": strategy}
    try:
        return TargetSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "strategy"
        if field == "kind":
            raise InvalidInputError("is no name of a target", field="target", value=kind) from error
        raise InvalidInputError(first["msg"].removeprefix("Value error, "), field=field, value=given[field]) from error


def _named(item: str, *, field: str) -> tuple[str, str]:
    name, separator, folder = item.partition("=")
    if not (name and separator and folder):
        raise InvalidInputError("write NAME=DIR", field=field, value=item)
    return name, folder
