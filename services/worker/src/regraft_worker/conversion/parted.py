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
    """A folder in which `outputs` (names in `folder`) are made; the last of them is moved last.

    Raises:
        ConflictError: one of them is there already, and `overwrite` is false.
    """
    if not overwrite:
        refuse_existing(*(folder / name for name in outputs))
    folder.mkdir(parents=True, exist_ok=True)
    with draft_folder(folder / f".part-{outputs[-1]}") as part:
        yield part
        for name in outputs:
            replace(part / name, folder / name)
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


def replace(made: Path, final: Path) -> None:
    """Give what was made its name, in one step; a folder that has the name is then where the new one was."""
    if final.is_dir():
        _exchange(made, final)
    else:
        made.replace(final)


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


def _exchange(made: Path, final: Path) -> None:
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    if renameat2(_AT_FDCWD, os.fsencode(made), _AT_FDCWD, os.fsencode(final), _RENAME_EXCHANGE):
        # Of a file system that cannot do it: for a moment there is neither.
        old = made.with_name(f"{made.name}.old")
        final.rename(old)
        made.rename(final)
