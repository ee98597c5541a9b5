"""What every writer does: a new file of known size, tensors copied into it block by block, digests made beside it.

A second thread hashes a block while the first one writes it. Both are done with it before the next one is asked for:
a source that maps its file gives pages back then, and a thread that lagged would bring them into memory again, for
good. Written pages are handed to the disk at once, so that the last sync has little left to do and a large
checkpoint does not push everything else out of the page cache.

When not to use it: for small files of text or JSON; those need none of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from regraft.errors import ConflictError, InvalidDataError
from regraft_worker.conversion.lazy import Lazy

Tick = Callable[[int], None]
"""Told of the bytes of each block after it is written; raises to stop."""
WriteBlock = Callable[[torch.Tensor, int], None]
"""Takes a block, and the bytes of its tensor that came before it."""

COPY_BYTES = 8 * 2**20
"""A block: both threads find it in the processor's cache."""
# Of a mapped source the kernel copies larger pieces several times slower on some processors (measured: AMD EPYC).
_PIECE_BYTES = 2**18
_WORTH_FLUSHING = 2**20


class Copier:
    """Copies tensors and hashes them; `digests` afterwards gives the sha256 of the raw little-endian bytes of each."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._found: dict[str, str] = {}

    def copy(self, lazy: Lazy, write: WriteBlock, *, block_bytes: int = COPY_BYTES) -> None:
        """All of one tensor."""
        sha256, copied = hashlib.sha256(), 0
        for block in lazy.blocks(block_bytes):
            _check_dtype(lazy, block)
            hashed = self._thread.submit(sha256.update, raw(block))
            write(block, copied)
            hashed.result()
            copied += block.nbytes
            self._tick(block.nbytes)
        if copied != lazy.nbytes:
            raise _not_as_promised(lazy, f"{copied} bytes instead of {lazy.nbytes}")
        self._found[lazy.name] = sha256.hexdigest()

    def digests(self, aliases: Mapping[str, str]) -> dict[str, str]:
        """Of every tensor copied, and of those that share their values."""
        found = self._found
        return found | {name: found[target] for name, target in aliases.items() if target in found}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)


class NewFile:
    """An open file of known size, written at offsets."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_at(self, offset: int, content: bytes | memoryview) -> None:
        """All of `content`, wherever it stands in the file."""
        view = memoryview(content)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written : written + _PIECE_BYTES], offset + written)
        if written >= _WORTH_FLUSHING:
            # Starts writing to the disk those pages that are not there yet, and drops those that are.
            os.posix_fadvise(self._descriptor, offset, written, os.POSIX_FADV_DONTNEED)

    def blocks_at(self, start: int) -> WriteBlock:
        """Takes the blocks of a tensor whose first byte is at `start`."""
        return lambda block, before: self.write_at(start + before, raw(block))

    def sync(self) -> None:
        """Wait until it is on the disk."""
        os.fsync(self._descriptor)


@contextmanager
def new_file(path: Path, size: int) -> Iterator[NewFile]:
    """A file of `size` bytes, synced and closed when the block ends, removed when it raises.

    Raises:
        ConflictError: there is one already.
        OSError: no space is left for all of it, said before anything is written.
    """
    with removed_unless_whole(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
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


def _check_dtype(lazy: Lazy, block: torch.Tensor) -> None:
    if block.dtype != lazy.dtype:
        raise _not_as_promised(lazy, f"{block.dtype} instead of {lazy.dtype}")


def _not_as_promised(lazy: Lazy, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"reading '{lazy.name}' gave {what}",
        field="checkpoint",
        value=lazy.name,
        remedy="Check that nothing changes the file while it is converted.",
        reason="source_changed",
    )
