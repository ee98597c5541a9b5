"""The inputs of `create-hdf5`: which files, and the documents in them.

    .jsonl .json.gz .jsonl.gz .jsonl.zst   one document a line, under `jsonl_key`; a list is joined by blank lines
    .txt                                   the whole file is one document

All text is UTF-8, whatever the locale says. Files of other kinds are passed over, as the original does. Memory: one
line, or one `.txt` file. The trade-off: a file that the original reads and this does not (`.parquet`, `.tar`) is an
error and never passed over in silence.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from regraft.errors import InvalidDataError, InvalidInputError, NotFoundError

LINES = (".jsonl", ".json.gz", ".jsonl.gz", ".jsonl.zst")
WHOLE = (".txt",)
UNREAD = (".parquet", ".jsonl.zst.tar")


def list_inputs(*, input_dir: str | None, metadata_files: str | None) -> list[Path]:
    """Input files in the order they are worked on: as the lists name them, else sorted by path.

    Raises:
        InvalidInputError: neither is given, no file of a known kind, or one that cannot be read here.
        NotFoundError: a folder, a list or a listed file is missing.
    """
    if metadata_files:
        found = [path for name in metadata_files.split(",") for path in _listed(Path(name.strip()))]
    elif input_dir:
        found = _in_folder(Path(input_dir))
    else:
        raise InvalidInputError("name the inputs", field="input_dir", remedy="Or list them in --metadata_files.")
    for path in found:
        if path.name.endswith(UNREAD):
            raise InvalidInputError(
                "files of this kind are not read here", field="input", value=str(path), remedy="Convert it to .jsonl."
            )
    known = [path for path in found if path.name.endswith(LINES + WHOLE)]
    if not known:
        raise InvalidInputError(
            f"none of the {len(found)} files has a known extension",
            field="metadata_files" if metadata_files else "input_dir",
            value=metadata_files or input_dir,
            remedy=f"Known: {' '.join(LINES + WHOLE)}. Shards of `regraft trc2 split` have one.",
        )
    return known


def read_documents(path: Path, *, jsonl_key: str) -> Iterator[str]:
    """The documents of one file.

    Raises:
        InvalidDataError: not UTF-8, not JSON, damaged compression, or a record without the key.
    """
    try:
        with _open(path) as file:
            if path.name.endswith(WHOLE):
                yield file.read()
            else:
                yield from _records(path, file, jsonl_key=jsonl_key)
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
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


def _records(path: Path, file: IO[str], *, jsonl_key: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)[jsonl_key]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidDataError(
                f"line {number} is no JSON object with {jsonl_key!r}",
                field="jsonl_key",
                value=str(path),
                remedy="Name the field that holds the text with --jsonl_key.",
            ) from error
        yield "\n\n".join(value) if isinstance(value, list) else str(value)


def _open(path: Path) -> IO[str]:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    if path.name.endswith(".zst"):
        return _open_zst(path)
    return path.open(encoding="utf-8")


def _open_zst(path: Path) -> IO[str]:
    try:
        import zstandard
    except ImportError as error:
        raise InvalidInputError(
            "reading .zst needs the package `zstandard`",
            field="input",
            value=str(path),
            remedy="Install it, or unpack the file.",
            reason="missing_package",
        ) from error
    return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8")
