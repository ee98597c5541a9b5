"""Outputs that appear when they are whole: made in a folder beside their places, then moved.

A kill leaves that folder, never half an output; the next conversion to the same name removes it. When not to use it:
for artifacts of a job, which have a manifest (`regraft.storage.publish`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import ConflictError
from regraft.storage import draft_folder

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def parted(folder: Path, *outputs: str, overwrite: bool) -> Iterator[Path]:
    """A folder in which `outputs` (files, names in `folder`) are made; the last of them is moved last.

    Raises:
        ConflictError: one of them is there already, and `overwrite` is false; or a folder has its name.
    """
    for name in outputs:
        refuse_other_kind(folder / name, is_folder=False)
    if not overwrite:
        refuse_existing(*(folder / name for name in outputs))
    folder.mkdir(parents=True, exist_ok=True)
    with draft_folder(folder / f".part-{outputs[-1]}") as part:
        yield part
        for name in outputs:
            (part / name).replace(folder / name)
        sync(folder)


def write_text(path: Path, text: str) -> None:
    """Write a small file, and wait until it is on the disk."""
    path.write_text(text, encoding="utf-8")
    sync(path)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(made: Path, final: Path, *, aside: Path) -> None:
    """Give what was made its name, in one step; a folder that has the name is then where the new one was.

    On a file system that cannot let two folders change places there are two steps: the old one first goes to `aside`.
    """
    if not final.is_dir():
        made.replace(final)
    elif not _change_places(made, final):
        final.rename(aside)
        made.rename(final)


def refuse_existing(*paths: Path) -> None:
    """Raise ConflictError when there is something at one of these paths."""
    for path in paths:
        if path.exists():
            raise ConflictError(
                "the output is there already",
                field="--output-dir",
                value=str(path),
                remedy="Choose another folder, delete it, or give --overwrite.",
                reason="output_exists",
            )


def refuse_other_kind(path: Path, *, is_folder: bool) -> None:
    """Raise ConflictError when a folder is where a file is to be, or the other way round; never to be written over."""
    if path.exists() and path.is_dir() != is_folder:
        raise ConflictError(
            f"the output is a {'folder' if is_folder else 'file'}, and there is a {'file' if is_folder else 'folder'}",
            field="--output-dir",
            value=str(path),
            remedy="Choose another folder for the output, or move away what is there.",
            reason="output_exists",
        )


def _change_places(made: Path, final: Path) -> bool:
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    places = _AT_FDCWD, os.fsencode(made), _AT_FDCWD, os.fsencode(final)
    return bool(renameat2(*places, _RENAME_EXCHANGE) == 0)
