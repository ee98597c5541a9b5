"""Everything a training run reads, opened and checked before any compute: a job that cannot work ends in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import InvalidInputError, RegraftError
from regraft.hdf5 import Dataset
from regraft.specs import TrainingSpec, TrainTask
from regraft.specs.monitoring import set_of
from regraft.storage import local_path, read_manifest, to_uri
from regraft_worker.trainer.data import has_windows
from regraft_worker.trainer.fitting import check_fit, checked_manifest, open_split
from regraft_worker.trainer.ledger import Ledger, LedgerPart
from regraft_worker.trainer.mixture import Mixture, Part, RowRanges
from regraft_worker.trainer.sets import ScoredSet, open_sets
from regraft_worker.trainer.state import DatasetRead
from regraft_worker.trainer.weights import Description, describe, with_dropout


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The base model's description, the windows to train on, and those to score."""

    base: Path
    base_address: str | None
    description: Description
    train: Mixture
    sets: dict[str, ScoredSet]
    """What is scored, by name; `val` is the job's own held-out set, if there is one."""
    datasets: tuple[DatasetRead, ...]
    """What the parts of `train` are."""
    max_steps: int
    ledger: Ledger
    """Of no step yet."""


@contextmanager
def open_inputs(task: TrainTask) -> Iterator[Inputs]:
    """Open and check what `task` names.

    Raises:
        InvalidInputError: model and datasets do not go together, or the options do not fit them.
        InvalidDataError: the checkpoint or a dataset is not what it should be.
    """
    training = task.training
    base = local_path(task.checkpoint_uri, field="checkpoint_uri")
    folder = local_path(task.dataset_uri, field="dataset_uri")
    description = with_dropout(describe(base), training.dropout)
    with ExitStack() as stack:
        parts, datasets = _open_parts(stack, folder, training, description)
        own = folder if has_windows(folder / "eval") else None
        sets = open_sets(
            stack,
            own,
            training.evaluate.sets,
            description=description,
            tokenizer=base,
            max_sequence_length=parts[0].dataset.max_sequence_length,
            max_windows=training.evaluate.max_windows,
            field="training.evaluate.sets",
        )
        _check_options(task, sets)
        base_manifest = read_manifest(base)
        train = Mixture(parts, seed=training.seed, shuffle=training.shuffle)
        yield Inputs(
            base=base,
            base_address=base_manifest.address if base_manifest else None,
            description=description,
            train=train,
            sets=sets,
            datasets=datasets,
            max_steps=training.max_steps or train.steps_of_one_pass(training.batch_size),
            ledger=_ledger(task, parts, datasets),
        )


def _ledger(task: TrainTask, parts: list[Part], datasets: tuple[DatasetRead, ...]) -> Ledger:
    training = task.training
    uris = [task.dataset_uri, *(part.uri for part in training.mixture)]
    subsets = [training.data_subset, *(part.data_subset for part in training.mixture)]
    found = [
        LedgerPart(
            uri=to_uri(local_path(uri)),
            address=read.address,
            files=read.files,
            windows=len(part.dataset),
            data_subset=subset,
            weight=part.weight,
        )
        for uri, subset, part, read in zip(uris, subsets, parts, datasets, strict=True)
    ]
    return Ledger(seed=training.seed, shuffle=training.shuffle, batch_size=training.batch_size, parts=tuple(found))


def _open_parts(
    stack: ExitStack, folder: Path, training: TrainingSpec, description: Description
) -> tuple[list[Part], tuple[DatasetRead, ...]]:
    """The job's own dataset, then those mixed in."""
    own = _open_own(stack, folder, training, description)
    parts, folders = [own], [folder]
    for number, asked in enumerate(training.mixture):
        field = f"training.mixture[{number}]"
        with _named(f"{field}.uri"):
            folders.append(local_path(asked.uri))
            dataset = _open_like(own.dataset, stack, folders[-1], description)
        ranges = _ranges(dataset, asked.data_subset, field=f"{field}.data_subset")
        parts.append(Part(field=f"{field}.uri", dataset=dataset, ranges=ranges, weight=asked.weight))
    return parts, tuple(_read_from(where, part.dataset) for where, part in zip(folders, parts, strict=True))


def _open_own(stack: ExitStack, folder: Path, training: TrainingSpec, description: Description) -> Part:
    asked, manifest = training.max_sequence_length, checked_manifest(folder)
    dataset = stack.enter_context(open_split(folder, "train", max_sequence_length=asked))
    check_fit(dataset, description, manifest)
    if asked not in (None, dataset.max_sequence_length):
        raise InvalidInputError(
            f"the dataset has windows of {dataset.max_sequence_length} tokens already",
            field="training.max_sequence_length",
            value=asked,
            remedy="Set it to null; it is for files of plain token streams.",
        )
    ranges = _ranges(dataset, training.data_subset, field="training.data_subset")
    return Part(field="dataset", dataset=dataset, ranges=ranges, weight=training.dataset_weight)


def _open_like(own: Dataset, stack: ExitStack, folder: Path, description: Description) -> Dataset:
    """A dataset to mix in; a token stream is cut into windows as long as those of the job's own dataset."""
    manifest = checked_manifest(folder)
    dataset = stack.enter_context(open_split(folder, "train", max_sequence_length=own.max_sequence_length))
    for what in ("max_sequence_length", "features"):
        found, expected = getattr(dataset, what), getattr(own, what)
        if found != expected:
            raise InvalidInputError(
                f"the windows of this dataset differ in {what} from those of the job's own: {found}, not {expected}",
                value=str(folder),
                remedy="Prepare both in the same way.",
            )
    check_fit(dataset, description, manifest)
    return dataset


@contextmanager
def _named(field: str) -> Iterator[None]:
    """What goes wrong in here is the fault of what this field names."""
    try:
        yield
    except RegraftError as error:
        error.field = field
        raise


def _ranges(dataset: Dataset, subset: str | None, *, field: str) -> RowRanges:
    ranges = RowRanges(len(dataset), subset)
    if len(ranges) == 0:
        raise InvalidInputError(
            f"of the {len(dataset)} windows of this dataset none is in the subset",
            field=field,
            value=subset,
            remedy="Choose a wider range.",
        )
    return ranges


def _read_from(folder: Path, dataset: Dataset) -> DatasetRead:
    manifest = read_manifest(folder)
    if manifest is not None:
        return DatasetRead(address=manifest.address)
    # Not the bytes, which may be hundreds of gigabytes: enough to notice that the files are others.
    facts = [(shard.path.name, shard.path.stat().st_size, shard.examples, shard.dtype) for shard in dataset.shards]
    return DatasetRead(files=hashlib.sha256(repr(facts).encode()).hexdigest())


def _check_options(task: TrainTask, sets: Mapping[str, ScoredSet]) -> None:
    training = task.training
    metrics = {
        "training.checkpoint.keep_best": training.checkpoint.keep_best,
        "training.early_stopping.metric": training.early_stopping.metric if training.early_stopping else None,
    }
    for field, metric in metrics.items():
        if metric is not None and set_of(metric) not in sets:
            raise _nothing_to_score(field, metric)
        if metric is not None and metric.endswith("_bits_per_byte") and sets[set_of(metric)].token_bytes is None:
            raise InvalidInputError(
                "bits per byte need a tokenizer.json with a byte-level vocabulary beside the base checkpoint",
                field=field,
                value=metric,
                remedy="Watch the loss instead: with one tokenizer the two tell the same.",
            )
    if training.evaluate.every_steps is not None and not sets:
        raise _nothing_to_score("training.evaluate.every_steps", training.evaluate.every_steps)


def _nothing_to_score(field: str, value: object) -> InvalidInputError:
    return InvalidInputError(
        "the dataset has no held-out windows to score",
        field=field,
        value=value,
        remedy="Set it to null, or prepare the dataset with a validation split.",
    )
