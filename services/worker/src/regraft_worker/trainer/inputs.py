"""Everything a training run reads, opened and checked before any compute: a job that cannot work ends in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import InvalidDataError, InvalidInputError, RegraftError
from regraft.hdf5 import Dataset
from regraft.specs import TrainingSpec, TrainTask
from regraft.storage import Manifest, local_path, read_manifest, verify
from regraft_worker.model.decoder import check_length
from regraft_worker.trainer.checkpoint import DatasetRead
from regraft_worker.trainer.data import has_windows
from regraft_worker.trainer.mixture import Mixture, Part, RowRanges
from regraft_worker.trainer.weights import Description, describe, with_dropout


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The base model's description, the windows to train on, and those to score."""

    base: Path
    base_address: str | None
    description: Description
    train: Mixture
    held_out: Dataset | None
    datasets: tuple[DatasetRead, ...]
    """What the parts of `train` are."""
    max_steps: int


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
        held_out = None
        if has_windows(folder / "eval"):
            length = training.max_sequence_length
            held_out = stack.enter_context(open_split(folder, "eval", max_sequence_length=length))
        _check_options(task, held_out)
        base_manifest = read_manifest(base)
        train = Mixture(parts, seed=training.seed, shuffle=training.shuffle)
        yield Inputs(
            base=base,
            base_address=base_manifest.address if base_manifest else None,
            description=description,
            train=train,
            held_out=held_out,
            datasets=datasets,
            max_steps=training.max_steps or train.steps_of_one_pass(training.batch_size),
        )


def open_split(folder: Path, split: str, *, max_sequence_length: int | None = None) -> Dataset:
    """The windows of one split.

    A folder of .h5 files with neither `train` nor `eval` in it, as the reference tools write it, is a train split.

    Raises:
        InvalidDataError: there are none.
    """
    found = folder if split == "train" and _is_flat(folder) else folder / split
    dataset = Dataset(found, max_sequence_length=max_sequence_length) if has_windows(found) else None
    if dataset is None or len(dataset) == 0:
        raise InvalidDataError(
            f"the dataset has no windows in its {split} split",
            field="dataset",
            value=str(folder),
            remedy="Prepare it from a larger corpus, or change the validation split.",
            reason="empty_split",
        )
    return dataset


def checked_manifest(folder: Path) -> Manifest | None:
    """The dataset's manifest, None for files of another tool; sizes are checked, digests were when it was published.

    Raises:
        InvalidDataError: a file is missing or has another size.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        verify(folder, manifest, digests=False)
    return manifest


def check_fit(dataset: Dataset, description: Description, manifest: Manifest | None) -> None:
    """Windows fit the positions of the model; token ids its vocabulary, as far as is known.

    Raises:
        InvalidInputError: they do not.
    """
    architecture = description.architecture
    check_length(dataset.max_sequence_length, architecture, field="dataset.max_sequence_length")
    highest = manifest.summary.get("max_token_id") if manifest else None
    if isinstance(highest, int) and highest >= architecture.vocab_size:
        raise InvalidInputError(
            f"the dataset has token ids beyond the model's vocabulary of {architecture.vocab_size}",
            field="dataset.tokenizer",
            value=highest,
            remedy="Prepare it with the tokenizer of this checkpoint.",
        )


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


def _is_flat(folder: Path) -> bool:
    return has_windows(folder) and not any((folder / split).is_dir() for split in ("train", "eval"))


def _check_options(task: TrainTask, held_out: Dataset | None) -> None:
    asked = {
        "training.evaluate.every_steps": task.training.evaluate.every_steps,
        "training.checkpoint.keep_best": task.training.checkpoint.keep_best,
    }
    for field, value in asked.items():
        if value is not None and held_out is None:
            raise InvalidInputError(
                "the dataset has no held-out windows to score",
                field=field,
                value=value,
                remedy="Set it to null, or prepare the dataset with a validation split.",
            )
