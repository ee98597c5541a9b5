"""Which windows of another tool's HDF5 files are trained on, and which are held out.

What is known of each split, before any window is read: where it lies, how its rows are to be taken, and what determines
it. The trade-off: a pass over the files for their digests. Not for documents.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regraft.errors import InvalidInputError
from regraft.hdf5 import Dataset
from regraft.specs.dataset import DatasetSpec

_EVAL_NAMES = ("eval", "val", "valid", "validation", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Windows `first` to `last` (excluded) of a dataset."""

    dataset: Dataset
    first: int
    last: int
    inverted: bool
    sha256: str
    """Of the digests of the dataset's files, in the order in which they are read."""
    special_ids: dict[str, int]
    """`eos_id` and `pad_id`, as far as its data_params.json has them: no window tells them."""

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def determining(self) -> list[object]:
        """All that decides which windows these are: the same bytes may be named, and read, in another way."""
        return [self.sha256, self.dataset.order, self.inverted, self.special_ids, self.first, self.last]


def splits_of(spec: DatasetSpec, folders: list[Path]) -> dict[str, Split]:
    """Train and eval, as the folders that the dataset names have them.

    Raises:
        InvalidInputError: they cannot be told apart, or have windows of another length.
    """
    if len(folders) == 1 and (inside := next((folders[0] / n for n in _EVAL_NAMES if (folders[0] / n).is_dir()), None)):
        folders = [folders[0] / "train", inside]
    found = [_open(folder, spec) for folder in folders]
    if len(found) == 2:
        return dict(zip(("train", "eval"), found, strict=True))
    given, count = found[0], len(found[0])
    if spec.validation.order == "hashed" or count < 2:
        raise InvalidInputError(
            "windows can be held out from the end of the files only, and there must be two",
            field="dataset.validation",
            value=count,
            remedy="Use the order 'chronological', or name files to hold out with dataset.validation.uri.",
        )
    rounded = int if spec.validation.order == "last" else round
    held_out = min(max(rounded(spec.validation.fraction * count), 1), count - 1)
    return {
        "train": replace(given, last=count - held_out),
        "eval": replace(given, first=count - held_out),
    }


def _open(folder: Path, spec: DatasetSpec) -> Split:
    """All windows of a folder."""
    dataset = Dataset(folder, max_sequence_length=spec.max_sequence_length)
    if dataset.max_sequence_length != spec.max_sequence_length:
        raise InvalidInputError(
            f"the files have windows of {dataset.max_sequence_length} tokens",
            field="dataset.max_sequence_length",
            value=spec.max_sequence_length,
            remedy=f"Set it to {dataset.max_sequence_length}.",
        )
    params = folder / "data_params.json"
    content = _object(json.loads(params.read_bytes())) if params.is_file() else {}
    inverted = bool(_object(content.get("dataset")).get("inverted_mask", False))
    return Split(dataset, 0, len(dataset), inverted, _digest(dataset), _special_ids(content))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _special_ids(params: dict[str, Any]) -> dict[str, int]:
    """Where the tools have them: in a section, or beside the sections."""
    places = [params, _object(params.get("processing")), _object(params.get("post-process"))]
    found = {name: place[name] for place in places for name in ("eos_id", "pad_id") if name in place}
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _digest(dataset: Dataset) -> str:
    """A pass over the files beside the corpus's own, which does not say what lies in which folder."""
    digests = []
    for shard in dataset.shards:
        with shard.path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
