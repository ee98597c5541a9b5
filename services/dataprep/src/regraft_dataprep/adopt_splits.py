"""Which windows of another tool's HDF5 files are trained on, and which are held out.

What is known of each split, before any window is read: where it lies, how its rows are to be taken, and what determines
it. Every file that was named is in a split, or the dataset is refused. Not for documents.
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
from regraft_dataprep.adopt_files import PARAMS, Brought
from regraft_dataprep.sources._files import FIELD

_EVAL_NAMES = ("eval", "val", "valid", "validation", "test")
_SHOWN = 5  # files named in an error


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


def splits_of(spec: DatasetSpec, named: list[Brought]) -> dict[str, Split]:
    """Train and eval, as the folders that the dataset names have them.

    Raises:
        InvalidInputError: they cannot be told apart, have windows of another length, or have files in no split.
    """
    folders = _folders([one.folder for one in named])
    for one in named:
        _check_in_folders(one, folders)
    digests = {path: digest for one in named for path, digest in one.digests.items()}
    found = [_open(folder, spec, digests) for folder in folders]
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


def _folders(named: list[Path]) -> list[Path]:
    """One for each split; a single one has all windows, and the last of them are held out."""
    if len(named) == 1 and (inside := next((named[0] / n for n in _EVAL_NAMES if (named[0] / n).is_dir()), None)):
        return [named[0] / "train", inside]
    return named


def _check_in_folders(named: Brought, folders: list[Path]) -> None:
    """The reader looks at the files of a folder, and at none deeper in it."""
    left_out = sorted(str(path.relative_to(named.folder)) for path in named.digests if path.parent not in folders)
    if left_out:
        raise InvalidInputError(
            f"{len(left_out)} files would be in no split, as they lie in other folders than the rest: "
            + ", ".join(left_out[:_SHOWN]),
            field=FIELD,
            value=left_out[0],
            remedy="Name one flat folder, one with train and eval in it and nothing else, or two folders, the second "
            "as dataset.validation.uri.",
        )


def _open(folder: Path, spec: DatasetSpec, digests: dict[Path, str]) -> Split:
    """All windows of a folder."""
    dataset = Dataset(folder, max_sequence_length=spec.max_sequence_length)
    if dataset.max_sequence_length != spec.max_sequence_length:
        raise InvalidInputError(
            f"the files have windows of {dataset.max_sequence_length} tokens",
            field="dataset.max_sequence_length",
            value=spec.max_sequence_length,
            remedy=f"Set it to {dataset.max_sequence_length}.",
        )
    params = folder / PARAMS
    content = _object(json.loads(params.read_bytes())) if params.is_file() else {}
    inverted = bool(_object(content.get("dataset")).get("inverted_mask", False))
    return Split(dataset, 0, len(dataset), inverted, _digest(dataset, digests), _special_ids(content))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _special_ids(params: dict[str, Any]) -> dict[str, int]:
    """Where the tools have them: in a section, or beside the sections."""
    places = [params, _object(params.get("processing")), _object(params.get("post-process"))]
    found = {name: place[name] for place in places for name in ("eos_id", "pad_id") if name in place}
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _digest(dataset: Dataset, digests: dict[Path, str]) -> str:
    """Raises InvalidInputError: a file is read that was not found with the others."""
    strange = next((shard.path for shard in dataset.shards if shard.path not in digests), None)
    if strange:
        raise InvalidInputError(
            "this file lies behind a symbolic link to a folder, which is not followed when files are looked for",
            field=FIELD,
            value=str(strange),
            remedy="Name the folders themselves, the second as dataset.validation.uri.",
        )
    return hashlib.sha256("\n".join(digests[shard.path] for shard in dataset.shards).encode()).hexdigest()
