"""The `train_input` and `eval_input` sections of a params file: which windows are read, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import InvalidInputError
from regraft_worker.zoo.keys import (
    READER_NO_EFFECT,
    READER_REFUSED,
    READER_USED,
    Section,
    flag,
    number,
    sort_keys,
    unknown_key,
    whole,
)

_ITERABLE, _MAP = "GptHDF5DataProcessor", "GptHDF5MapDataProcessor"
_SHUFFLE_NOTE = (
    "{where}.shuffle: the shuffle buffer of GptHDF5DataProcessor cannot be reproduced; windows are read in the order "
    "of GptHDF5MapDataProcessor instead (a new permutation each epoch, seeded with shuffle_seed plus the epoch)"
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Folders of .h5 files that are read as one dataset."""

    folders: tuple[Path, ...]
    weight: float = 1.0
    subset: str | None = None

    def files(self) -> list[Path]:
        """The data files, in the order of their paths, which is the order of an unshuffled run.

        Raises:
            InvalidInputError: there are none.
        """
        found = sorted((file for folder in self.folders for file in folder.glob("*.h5")), key=str)
        if not found:
            raise InvalidInputError(
                "there are no .h5 files directly in these folders",
                field="data_dir",
                value=", ".join(map(str, self.folders)),
                remedy="Name the folders that hold the files themselves; they are not searched.",
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One input section."""

    where: str
    parts: tuple[Part, ...]
    """One, or the datasets of a mixture."""
    batch_size: int
    shuffle: bool
    seed: int | None
    drop_last: bool
    map_style: bool
    stream_length: int | None
    """Length of the windows that files of plain token streams are cut into."""
    no_effect: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """What a user should know of the order."""
        found = [_SHUFFLE_NOTE.format(where=self.where)] if self.shuffle and not self.map_style else []
        if not self.drop_last:
            found.append(
                f"{self.where}.drop_last: false has no effect on training; a last, short batch is filled up "
                "from the next epoch"
            )
        return found


def reader_of(section: Mapping[str, object], where: str) -> Reader:
    """Read an input section.

    Raises:
        InvalidInputError: a key or value that is unknown or not offered.
    """
    quiet = sort_keys(section, where, used=READER_USED, no_effect=READER_NO_EFFECT, refused=READER_REFUSED)
    name = section.get("data_processor")
    if name not in (_ITERABLE, _MAP):
        raise unknown_key(name, f"{where}.data_processor", (_ITERABLE, _MAP))
    batch_size = whole(section, "batch_size", where)
    if batch_size is None:
        raise InvalidInputError("must be given", field=f"{where}.batch_size")
    map_style = name == _MAP
    length = whole(section, "max_sequence_length", where, least=2)
    return Reader(
        where=where,
        parts=_parts(section, where),
        batch_size=batch_size,
        shuffle=flag(section, "shuffle", where, default=False),
        seed=whole(section, "shuffle_seed", where, least=0),
        drop_last=flag(section, "drop_last", where, default=True),
        map_style=map_style,
        stream_length=length if map_style else None,
        no_effect=tuple(quiet),
    )


def _parts(section: Section, where: str) -> tuple[Part, ...]:
    folders, mixture = section.get("data_dir"), section.get("mixture")
    if (folders is None) == (mixture is None):
        raise InvalidInputError("give either data_dir or mixture", field=f"{where}.data_dir", value=folders)
    if mixture is None:
        return (Part(folders=_folders(folders, f"{where}.data_dir"), subset=_subset(section, where)),)
    if not isinstance(mixture, list) or not mixture or not all(isinstance(part, dict) for part in mixture):
        raise InvalidInputError("must be a list of datasets", field=f"{where}.mixture", value=mixture)
    return tuple(_mixed(part, f"{where}.mixture[{place}]") for place, part in enumerate(mixture))


def _mixed(part: Section, where: str) -> Part:
    sort_keys(part, where, used=("data_dir", "weight", "data_subset"))
    weight = number(part, "weight", where)
    if weight is None or weight <= 0:
        raise InvalidInputError("must be a number above 0", field=f"{where}.weight", value=weight)
    return Part(folders=_folders(part.get("data_dir"), f"{where}.data_dir"), weight=weight, subset=_subset(part, where))


def _folders(found: object, where: str) -> tuple[Path, ...]:
    names = found if isinstance(found, list) else [found]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidInputError("must be a folder, or a list of folders", field=where, value=found)
    for name in names:
        if not Path(name).is_dir():
            raise InvalidInputError(
                "there is no such folder", field=where, value=name, remedy="Paths start from the current folder."
            )
    return tuple(Path(name).absolute() for name in names)


def _subset(section: Section, where: str) -> str | None:
    found = section.get("data_subset")
    if found is not None and not isinstance(found, str):
        raise InvalidInputError("must be ranges such as 0.0-0.5", field=f"{where}.data_subset", value=found)
    return found
