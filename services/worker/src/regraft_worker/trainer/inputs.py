"""Everything a training run reads, opened and checked before any compute: a job that cannot work ends in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.hdf5 import Dataset
from regraft.specs import TrainTask
from regraft.storage import Manifest, local_path, read_manifest, verify
from regraft_worker.model.decoder import check_length
from regraft_worker.trainer.data import has_windows
from regraft_worker.trainer.weights import Description, describe


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The base model's description and the two splits."""

    base: Path
    base_address: str | None
    description: Description
    train: Dataset
    held_out: Dataset | None
    dataset_address: str | None
    max_steps: int


@contextmanager
def open_inputs(task: TrainTask) -> Iterator[Inputs]:
    """Open and check what `task` names.

    Raises:
        InvalidInputError: model and dataset do not go together, or the options do not fit them.
        InvalidDataError: the checkpoint or the dataset is not what it should be.
    """
    base = local_path(task.checkpoint_uri, field="checkpoint_uri")
    folder = local_path(task.dataset_uri, field="dataset_uri")
    description = describe(base)
    manifest = checked_manifest(folder)
    with ExitStack() as stack:
        train = stack.enter_context(open_split(folder, "train"))
        held_out = stack.enter_context(open_split(folder, "eval")) if has_windows(folder / "eval") else None
        check_fit(train, description, manifest)
        _check_options(task, held_out)
        base_manifest = read_manifest(base)
        yield Inputs(
            base=base,
            base_address=base_manifest.address if base_manifest else None,
            description=description,
            train=train,
            held_out=held_out,
            dataset_address=manifest.address if manifest else None,
            max_steps=task.training.max_steps or math.ceil(len(train) / task.training.batch_size),
        )


def open_split(folder: Path, split: str) -> Dataset:
    """The windows of one split.

    Raises:
        InvalidDataError: there are none.
    """
    dataset = Dataset(folder / split) if has_windows(folder / split) else None
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
    """Windows fit the model's positions; token ids its vocabulary, as far as the manifest tells.

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
