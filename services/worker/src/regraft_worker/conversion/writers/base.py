"""What every writer does: a file of known size, its space taken at once, written at offsets.

Written pages are handed to the disk at once, so that the last sync has little left to do and a large checkpoint does
not push everything else out of the page cache. With a journal the file is one to go on with: one that was cut short is
opened again, and stays when the writing fails.

When not to use it: for small files of text or JSON; those need none of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from regraft.errors import ConflictError
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.journal import Journal

Tick = Callable[[int], None]
"""Told of the bytes of each block after it is written; raises to stop."""

COPY_BYTES = 8 * 2**20
"""A block: small enough to be found in the processor's cache again."""
# Of a mapped source the kernel copies larger pieces several times slower on some processors (measured: AMD EPYC).
_PIECE_BYTES = 2**18
_WORTH_FLUSHING = 2**20


class NewFile:
    """An open file of known size, written at offsets."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_at(self, offset: int, content: bytes | memoryview) -> None:
        """All of `content`, wherever it stands in the file. May be called by several threads."""
        view = memoryview(content)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written : written + _PIECE_BYTES], offset + written)
        if written >= _WORTH_FLUSHING:
            # Starts writing to the disk those pages that are not there yet, and drops those that are.
            os.posix_fadvise(self._descriptor, offset, written, os.POSIX_FADV_DONTNEED)

    def sha256(self, offset: int, count: int, tick: Tick) -> str:
        """Of `count` bytes as they are in the file."""
        found, buffer = hashlib.sha256(), memoryview(bytearray(min(COPY_BYTES, count)))
        while count and (read := os.preadv(self._descriptor, [buffer[:count]], offset)):
            found.update(buffer[:read])
            offset, count = offset + read, count - read
            tick(read)
        return found.hexdigest()

    def sync(self) -> None:
        """Wait until it is on the disk."""
        os.fsync(self._descriptor)


@contextmanager
def new_file(path: Path, size: int, journal: Journal | None = None) -> Iterator[NewFile]:
    """A file of `size` bytes, synced and closed when the block ends, removed when it raises.

    With the `journal` of this file one that was begun is opened, and none is removed.

    Raises:
        ConflictError: there is one already, and no journal.
        OSError: no space is left for all of it, said before anything is written.
    """
    if journal is not None:
        journal.begin(size)
    with removed_unless_whole(path) if journal is None else nullcontext():
        fresh = os.O_EXCL if journal is None else 0
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | fresh, 0o666)
        try:
            reserve(descriptor, size, path)
            file = NewFile(descriptor)
            yield file
            file.sync()
        finally:
            os.close(descriptor)


@contextmanager
def removed_unless_whole(path: Path) -> Iterator[None]:
    """Remove what the block made at `path` when it raises; a file that was there before is refused, and stays."""
    if path.exists():
        raise ConflictError(
            "there is a file already",
            field="path",
            value=str(path),
            remedy="Write to another name, or delete it.",
            reason="file_exists",
        )
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Take the space now, so that a full disk is known at once."""
    if not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def raw(block: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor, not copied."""
    return memoryview(block.reshape(-1).view(torch.uint8).numpy())


def named(tensors: Iterable[Lazy], aliases: Mapping[str, str]) -> dict[str, Lazy]:
    """Tensors by name, in order; every alias names one of them and is none itself."""
    by_name: dict[str, Lazy] = {}
    for lazy in tensors:
        assert lazy.name not in by_name, f"'{lazy.name}' twice"
        by_name[lazy.name] = lazy
    assert not by_name.keys() & aliases.keys(), "an alias has no values of its own"
    return by_name


def copies_of(tensors: Mapping[str, Lazy], aliases: Mapping[str, str]) -> list[Lazy]:
    """Aliases as tensors of their own, for an encoding that knows no sharing."""
    return [replace(tensors[target], name=name) for name, target in aliases.items()]


def with_aliases(digests: Mapping[str, str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Digests of every tensor copied, and of those that share their values."""
    return {**digests, **{name: digests[target] for name, target in aliases.items() if target in digests}}
