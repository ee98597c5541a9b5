"""Datasets opened and checked against the model that reads them."""

from __future__ import annotations

from pathlib import Path

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.hdf5 import Dataset
from regraft.storage import Manifest, read_manifest, verify
from regraft_worker.model.decoder import check_length
from regraft_worker.trainer.data import has_windows
from regraft_worker.trainer.weights import Description


def open_split(folder: Path, split: str, *, max_sequence_length: int | None = None) -> Dataset:
    """The windows of one split.

    A folder of .h5 files with neither `train` nor `eval` in it, as the reference tools write it, is a train split.

    Raises:
        InvalidDataError: there are none.
    """
    found = folder if split == "train" and is_flat(folder) else folder / split
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


def is_flat(folder: Path) -> bool:
    """A folder of .h5 files that knows no splits."""
    return has_windows(folder) and not any((folder / split).is_dir() for split in ("train", "eval"))


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
