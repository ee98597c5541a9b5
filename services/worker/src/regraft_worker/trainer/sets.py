"""Sets of windows to score: the job's own held-out ones, called `val`, and others by name, such as `general`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import RegraftError
from regraft.hdf5 import Dataset
from regraft.specs.monitoring import OWN_SET
from regraft.storage import local_path, read_manifest
from regraft_worker.trainer.fitting import check_fit, checked_manifest, is_flat, open_split
from regraft_worker.trainer.token_bytes import token_bytes
from regraft_worker.trainer.weights import Description


@dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """Windows and what is known about their text."""

    dataset: Dataset
    windows: int
    """How many are scored, from the first one on."""
    token_bytes: NDArray[np.int64] | None
    """Bytes of text that each token id stands for; None: not known."""
    address: str | None


def open_sets(
    stack: ExitStack,
    own: Path | None,
    further: Mapping[str, str],
    *,
    description: Description,
    tokenizer: Path,
    max_sequence_length: int | None,
    max_windows: int | None,
    field: str,
) -> dict[str, ScoredSet]:
    """The sets by name, `val` first when there is an `own` folder; they are closed with `stack`.

    `tokenizer` is a folder that may hold the `tokenizer.json` that made the ids. Token streams are cut into windows of
    `max_sequence_length`.

    Raises:
        InvalidInputError: a set does not fit the model.
        InvalidDataError: a set is not what it should be, or has no windows.
    """
    folders = {} if own is None else {OWN_SET: own}
    folders |= {name: local_path(uri, field=f"{field}.{name}") for name, uri in further.items()}
    known = token_bytes(tokenizer, description.architecture.vocab_size)
    found = {}
    for name, folder in folders.items():
        try:
            dataset = stack.enter_context(_open(folder, max_sequence_length))
            check_fit(dataset, description, checked_manifest(folder))
        except RegraftError as error:
            if name != OWN_SET:
                error.field = f"{field}.{name}"
            raise
        manifest = read_manifest(folder)
        found[name] = ScoredSet(
            dataset=dataset,
            windows=min(len(dataset), max_windows or len(dataset)),
            token_bytes=known,
            address=manifest.address if manifest else None,
        )
    return found


def _open(folder: Path, max_sequence_length: int | None) -> Dataset:
    """The held-out windows of a prepared dataset, or all of a flat folder."""
    split = "train" if is_flat(folder) else "eval"
    return open_split(folder, split, max_sequence_length=max_sequence_length)
