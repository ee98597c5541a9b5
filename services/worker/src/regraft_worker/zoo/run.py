"""A run described by a params file: train, score, or both, in the user's `model_dir`.

The computing is the trainer's, on a dataset folder of links and a base checkpoint in a work folder below `model_dir`;
what stays is what the Model Zoo leaves: logs, the params, and a `checkpoint_<step>.mdl` for every step that was asked
for. The price is that each checkpoint is written twice, once as the trainer's own, which is deleted at the end.

One process on one device: for many use `regraft train --devices`, or a job.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.hdf5 import Dataset
from regraft.specs import EvaluateTask, TargetSpec, TrainingSpec, TrainTask
from regraft.specs.monitoring import OWN_SET
from regraft.storage import draft_folder
from regraft_worker.conversion.containers.base import UNREADABLE
from regraft_worker.trainer.evaluate import evaluate
from regraft_worker.trainer.loop import train
from regraft_worker.trainer.targets import target_for
from regraft_worker.zoo.events import Events
from regraft_worker.zoo.log import done_line, run_log, score_lines, step_line
from regraft_worker.zoo.params import Mode, Params, read_params
from regraft_worker.zoo.progress import ScoreProgress, TrainProgress
from regraft_worker.zoo.reader import Reader
from regraft_worker.zoo.start import (
    Found,
    check_position,
    new_weights,
    open_start,
    saved_checkpoints,
    untrained,
    write_base,
    write_step,
)
from regraft_worker.zoo.views import link_eval, link_train

_LABELS = {"cpu": "cpu", "gpu": "cuda"}


def run(
    *,
    device: str,
    mode: Mode,
    params: Path,
    given: Mapping[str, object],
    model_dir: Path | None = None,
    level: str | None = None,
    checkpoint_format: str | None = None,
) -> None:
    """Do what `regraft run` was asked for; `device` is the kind of a target, `given` are keys of `runconfig`.

    `model_dir` and `level` of logging are the params file's unless given; `checkpoint_format` is `torch` or `hdf5`,
    null for what the file's releases write.

    Raises:
        InvalidInputError: the params file, the flags or the inputs do not go together.
        InvalidDataError: an input is damaged, or the loss is not finite.
        InterruptedStageError: asked to stop; what was asked to be saved is.
    """
    _check_alone()
    target_for(TargetSpec(kind=device))  # a device that is not there is said before anything is read
    read = read_params(params, mode=mode, device=device, given=given, checkpoint_format=checkpoint_format)
    _make_summary_dir(read.control.summary_dir)
    model_dir = model_dir or Path(read.control.model_dir)
    level, stamp = level or read.control.logging, time.strftime("%Y%m%d_%H%M%S")
    with run_log(model_dir, era=read.era, mode=mode, stamp=stamp, level=level, params=read.text) as logger:
        for note in read.notes:
            logger.info(note)
        if mode.startswith("train"):
            _train(read, logger, device=device, model_dir=model_dir, stamp=stamp)
        else:
            every = mode == "eval_all"
            _score_all(read, logger, device=device, model_dir=model_dir, stamp=stamp, every=every)


def _train(params: Params, logger: Logger, *, device: str, model_dir: Path, stamp: str) -> None:
    reader = params.train
    assert reader is not None, "read for this mode"
    with _work(model_dir) as work, _start(params, model_dir, logger) as found:
        data = link_train(work / "data", reader)
        with Dataset(work / "data" / "train", max_sequence_length=reader.stream_length) as dataset:
            windows = len(dataset)
        batches = _link_scored(work, params)
        start = found.step if found else 0
        sets = {name: str(work / name) for name in batches if name != OWN_SET}
        training = _training(params, data, start=start, windows=windows, sets=sets)
        if found and found.trained:
            check_position(found, batch_size=training.batch_size, seed=training.seed, shuffle=training.shuffle)
        task = TrainTask(
            dataset_uri=str(work / "data"),
            checkpoint_uri=str(work / "base"),
            training=training,
            target=TargetSpec(kind=device),
            output_uri=str(work / "run"),
        )
        progress = TrainProgress(
            logger,
            params,
            training,
            device=_LABELS[device],
            start=start,
            model_dir=model_dir,
            batches=batches,
            events=_events(params, logger, model_dir, stamp, first_step=start + 1 if start else 0),
        )
        _lay_out(work, found, params, task, progress, windows=windows)
        _go(task, progress, start=start)
    logger.info(done_line("Training", era=params.era))


def _link_scored(work: Path, params: Params) -> dict[str, int]:
    """The sets to score while training, the first one beside the training windows; batches of each by its name."""
    found = {}
    for place, reader in enumerate(params.scored):
        name = _set_name(place)
        folder = work / (name if place else "data")
        found[name] = link_eval(folder, reader, eval_steps=params.control.eval_steps)
    return found


def _set_name(place: int) -> str:
    return f"eval_{place}" if place else OWN_SET


def _go(task: TrainTask, progress: TrainProgress, *, start: int) -> None:
    """Train to the end; saving is counted from `start`, while the trainer counts from 0."""
    began, training = time.monotonic(), task.training
    every, end = training.checkpoint.every_steps, training.max_steps
    assert end is not None, "a run has an end"
    aligned = start % every == 0
    for stop in [end] if aligned else [*range(start + every, end, every), end]:
        saved = {} if aligned else {"checkpoint": training.checkpoint.model_copy(update={"every_steps": stop})}
        part = training.model_copy(update={"max_steps": stop, **saved})
        train(
            task.model_copy(update={"training": part}),
            progress,
            part=stop != end,
            known_by=progress.model_dir.absolute(),
        )
        progress.rest()
    if progress.params.era != "1.8":
        samples = (end - start) * training.batch_size
        progress.logger.info(f"Processed {samples} training sample(s) in {time.monotonic() - began} seconds.")


def _events(params: Params, logger: Logger, model_dir: Path, stamp: str, *, first_step: int | None) -> Events:
    return Events(
        model_dir,
        era=params.era,
        stamp=stamp,
        summary_dir=params.control.summary_dir,
        first_step=first_step,
        warn=logger.warning,
    )


def _training(
    params: Params, data: Mapping[str, object], *, start: int, windows: int, sets: Mapping[str, str]
) -> TrainingSpec:
    control = params.control
    batch_size = params.training["batch_size"]
    assert isinstance(batch_size, int), "read from the params file"
    end = control.end_of(start, windows, batch_size)
    every = min(control.checkpoint_steps or end, end)
    found: dict[str, Any] = {**params.training, **data, "max_steps": end, "tensorboard": False}  # Events writes them
    # Lines and files come in the order of the steps, as there: nothing is written while training goes on.
    found["checkpoint"] = {"every_steps": every, "keep_last": 2, "background": False}
    if params.scored:
        every = min(control.eval_frequency or end, end)
        found["evaluate"] = {"every_steps": every, "at_start": False, "sets": sets}
    try:
        return TrainingSpec.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"this is not offered: {first['msg']}", field=where, value=first["input"]) from error


def _lay_out(
    work: Path, found: Found | None, params: Params, task: TrainTask, progress: TrainProgress, *, windows: int
) -> None:
    """The trainer's base checkpoint, and the step it goes on from."""
    going_on = found is not None and found.trained is not None
    begun = found if found is not None and going_on else untrained(found.tensors if found else new_weights(params))
    write_base(work / "base", begun.tensors, params)
    if not going_on and not params.control.save_initial_checkpoint:
        return
    folder = work / ("run" if going_on else "initial") / f"step-{begun.step:08d}"
    write_step(folder, begun, params, state=_state(task, begun, windows=windows))
    if params.control.save_initial_checkpoint:
        progress.save(folder, begun.step)


def _state(task: TrainTask, found: Found, *, windows: int) -> dict[str, object]:
    """The trainer's state of a run that has come so far, with today's options."""
    training = task.training
    return {
        "format_version": 3,
        "step": found.step,
        "dataloader": {"samples_streamed": found.step * training.batch_size, "seed": training.seed},
        "scalars": {"updates": found.updates, **found.scaler},
        "training": training.model_dump(mode="json", by_alias=True),
        "target": task.target.model_dump(mode="json"),
        "max_steps": training.max_steps,
        "dataset": None,
        "dataset_windows": windows,
        "base": None,
        "versions": {},
    }


def _score_all(params: Params, logger: Logger, *, device: str, model_dir: Path, stamp: str, every: bool) -> None:
    paths = saved_checkpoints(model_dir)
    if params.control.checkpoint_path is not None:
        paths = [Path(params.control.checkpoint_path)]
    if not paths:
        raise InvalidInputError(
            "there is nothing to score", field="--checkpoint_path", remedy=f"Name a checkpoint; {model_dir} has none."
        )
    events = _events(params, logger, model_dir, stamp, first_step=None)
    for path in paths if every else paths[-1:]:
        with open_start(path, params, to_train=False) as found, _work(model_dir) as work:
            logger.info(f"Loading weights from checkpoint {path}")
            _say_notes(found, logger)
            write_base(work / "base", found.tensors, params)
            for place, reader in enumerate(params.scored):
                name, step = _set_name(place), found.global_step
                scores, rates = _score(params, reader, work, logger, device=device, step=step)
                named = {f"{name}_{what}": value for what, value in scores.items()}
                events.scored(step, named, rates, batch_size=reader.batch_size)
    logger.info(done_line("Evaluation", era=params.era))


def _score(
    params: Params, reader: Reader, work: Path, logger: Logger, *, device: str, step: int
) -> tuple[dict[str, float], tuple[float, float]]:
    """Loss, perplexity and accuracy, which the log says, and samples per second."""
    data = work / reader.where
    batches = link_eval(data, reader, eval_steps=params.control.eval_steps)
    progress = ScoreProgress(logger)
    task = EvaluateTask(
        dataset_uri=str(data),
        checkpoints={"model": str(work / "base")},
        batch_size=reader.batch_size,
        precision=str(params.training["precision"]),
        target=TargetSpec(kind=device),
        output_uri=str(work / "report"),
    )
    found = evaluate(task, progress).scores["model"]
    assert progress.rates is not None, "told at the start"
    pace = progress.rates.at(batches * reader.batch_size)
    label = _LABELS[device]
    line = step_line("Eval", era=params.era, device=label, step=step, loss=found.loss, rates=pace, batches=batches)
    scores = {"loss": found.loss, "perplexity": found.perplexity, "accuracy": found.accuracy}
    for said in (line, *score_lines(scores, era=params.era)):
        logger.info(said)
    return scores, pace


@contextmanager
def _start(params: Params, model_dir: Path, logger: Logger) -> Iterator[Found | None]:
    """The checkpoint to start from: the one that is named, else the newest that can be read, else none."""
    named = params.control.checkpoint_path
    if named is not None:
        with open_start(Path(named), params, to_train=True) as found:
            logger.info(f"Loading weights from checkpoint {named}")
            _say_notes(found, logger)
            yield found
        return
    for path in reversed(saved_checkpoints(model_dir) if params.control.autoload else []):
        if not _is_readable(path, params, logger):
            continue
        with open_start(path, params, to_train=True) as found:
            logger.info(f"Found latest checkpoint at {path}; going on from step {found.step}")
            _say_notes(found, logger)
            yield found
        return
    logger.info("No checkpoint was provided; the weights are new, drawn as the model section says")
    yield None


def _is_readable(path: Path, params: Params, logger: Logger) -> bool:
    """False for a file that was cut short; one that is whole and does not fit is an error."""
    try:
        with open_start(path, params, to_train=True):
            return True
    except InvalidDataError as error:
        if error.reason != UNREADABLE:
            raise
        logger.warning(f"{path} is skipped: {error}")
        return False


def _say_notes(found: Found, logger: Logger) -> None:
    for note in found.notes:
        logger.warning(note)


@contextmanager
def _work(model_dir: Path) -> Iterator[Path]:
    """A folder for what the trainer reads and writes, removed in the end, and that of a killed run at the start."""
    with draft_folder(model_dir.absolute() / ".regraft-run") as work:
        yield work


def _make_summary_dir(found: str | None) -> None:
    if found is None:
        return
    try:
        Path(found).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"cannot be made ({error.strerror})",
            field="summary_dir",
            value=found,
            remedy="Name a folder that can be written to, or leave the key out.",
        ) from error


def _check_alone() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInputError(
            "this command is one process on one device",
            field="WORLD_SIZE",
            value=os.environ["WORLD_SIZE"],
            remedy="Start it without torchrun, or train on many devices with `regraft train --devices` or a job.",
        )
