"""The inputs of `create-hdf5`: which files, and the documents in them.

    .jsonl .json.gz .jsonl.zst   one document a line, under `jsonl_key`; a list of texts is joined by blank lines
    .jsonl.zst.tar               the same, from every file in the archive
    .parquet                     one document a row, from the column `jsonl_key`
    .txt                         the whole file is one document

These and no others, as in the original; files of other kinds are passed over, but named. All text is UTF-8, whatever
the locale says. Memory: one line, a few hundred rows, or one `.txt` file.

Not for new work: `regraft_dataprep.sources` reads more kinds, from other places than disks, and counts bad records.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from regraft.errors import InvalidDataError, InvalidInputError, NotFoundError
from regraft_dataprep.sources._streams import unpacked

_ROWS = 256  # of a Parquet file at a time
_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Inputs:
    """What `list_inputs` found."""

    paths: list[Path]
    """In the order they are worked on."""
    passed_over: list[Path]
    """Files of kinds that are not read."""


def list_inputs(*, input_dir: str | None, metadata_files: str | None) -> Inputs:
    """Input files: as the lists name them, else those in the folder and its sub-folders, sorted by path.

    Raises:
        InvalidInputError: neither is given, or there is no file of a known kind.
        NotFoundError: a folder, a list or a listed file is missing.
    """
    if metadata_files:
        found = [path for name in metadata_files.split(",") for path in _listed(Path(name.strip()))]
    elif input_dir:
        found = _in_folder(Path(input_dir))
    else:
        raise InvalidInputError("name the inputs", field="input_dir", remedy="Or list them in --metadata_files.")
    known = [path for path in found if _reader(path)]
    if not known:
        raise InvalidInputError(
            f"none of the {len(found)} files has a known extension",
            field="metadata_files" if metadata_files else "input_dir",
            value=metadata_files or input_dir,
            remedy=f"Known: {' '.join(_READERS)}. Shards of `regraft trc2 split` have one.",
        )
    return Inputs(known, [path for path in found if not _reader(path)])


def read_documents(path: Path, *, jsonl_key: str) -> Iterator[str]:
    """The documents of one file of a known kind.

    Raises:
        InvalidDataError: not UTF-8, not JSON, damaged, or a record without a text under the key.
    """
    reader = _reader(path)
    assert reader is not None
    try:
        yield from reader(path, jsonl_key)
    except (UnicodeDecodeError, tarfile.TarError) as error:
        raise InvalidDataError(f"this file cannot be read ({error})", field="input", value=str(path)) from error


def _listed(path: Path) -> list[Path]:
    if not path.is_file():
        raise NotFoundError("there is no such list", field="metadata_files", value=str(path))
    entries = [Path(line.strip()) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for entry in entries:
        if not entry.is_file():
            raise NotFoundError(f"a file that {path} lists is missing", field="metadata_files", value=str(entry))
    return entries


def _in_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NotFoundError("there is no such folder", field="input_dir", value=str(folder))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _whole(path: Path, key: str) -> Iterator[str]:
    yield path.read_text(encoding="utf-8")


def _lines(path: Path, key: str) -> Iterator[str]:
    with path.open("rb") as file:
        yield from _records(file, name=path.name, place=str(path), key=key)


def _archived_lines(path: Path, key: str) -> Iterator[str]:
    _must_be_a_whole_tar(path)
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:  # a folder has no content
                yield from _records(cast(BinaryIO, file), name=".zst", place=f"{path}: {member.name}", key=key)


def _must_be_a_whole_tar(path: Path) -> None:
    # The library takes an archive that breaks off between two files for a whole one.
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAR_BLOCK))
        if file.read() != bytes(_TAR_BLOCK):
            raise InvalidDataError("this archive is cut off, or is none", field="input", value=str(path))


def _records(file: BinaryIO, *, name: str, place: str, key: str) -> Iterator[str]:
    stream = unpacked(file, name=name, field="input", uri=place)
    with io.TextIOWrapper(stream, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                what = f"line {number}"
                yield _text(_value(line, what=what, place=place, key=key), what=what, place=place)


def _value(line: str, *, what: str, place: str, key: str) -> object:
    try:
        return json.loads(line)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise _no_text(f"{what} is no JSON object with {key!r}", place=place) from error


def _rows(path: Path, key: str) -> Iterator[str]:
    import pyarrow  # here, as every child process would wait for it otherwise
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if key not in file.schema_arrow.names:
                raise _no_text(f"there is no column {key!r}", place=str(path))
            batches = file.iter_batches(batch_size=_ROWS, columns=[key])
            values = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
            for number, value in enumerate(values, start=1):
                yield _text(value, what=f"row {number}", place=str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidDataError(f"this file cannot be read ({error})", field="input", value=str(path)) from error


def _text(value: object, *, what: str, place: str) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n\n".join(value)
    if not isinstance(value, str):
        raise _no_text(f"{what} holds no text but {type(value).__name__}", place=place)
    return value


def _no_text(message: str, *, place: str) -> InvalidDataError:
    remedy = "Name the field that holds the text with --jsonl_key."
    return InvalidDataError(message, field="jsonl_key", value=place, remedy=remedy)


_Reader = Callable[[Path, str], Iterator[str]]
_READERS: dict[str, _Reader] = {
    ".jsonl": _lines,
    ".json.gz": _lines,
    ".jsonl.zst": _lines,
    ".jsonl.zst.tar": _archived_lines,
    ".parquet": _rows,
    ".txt": _whole,
}


def _reader(path: Path) -> _Reader | None:
    return next((reader for suffix, reader in _READERS.items() if path.name.endswith(suffix)), None)
