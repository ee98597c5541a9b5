"""Tensors copied to their places in a file, and hashed on the way, by two threads.

Each thread takes a tensor at a time, the largest first, and hashes a block right after it wrote it, while the block is
in the processor's cache: sha256 at some GB/s a core is what takes longest, and two hash about as fast as disks write.
More would take cores from a training run whose checkpoint this is.

A tensor that an earlier run had written is read back and compared with its digest instead; its source is not read.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import torch
from zlib_ng import zlib_ng

from regraft.errors import InvalidDataError
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.base import COPY_BYTES, NewFile, Tick, raw
from regraft_worker.conversion.writers.journal import Journal, Sums

_THREADS = 2


class Placed(NamedTuple):
    """A tensor, and where its first byte goes."""

    lazy: Lazy
    at: int


def copy_tensors(
    file: NewFile,
    tensors: Iterable[Placed],
    *,
    tick: Tick,
    journal: Journal | None = None,
    with_crc32: bool = False,
    block_bytes: int = COPY_BYTES,
) -> dict[str, Sums]:
    """Copy all of them; the sums of each by name, in the order they came in.

    `tick` is called by one thread at a time, and also told of what was there already.
    """
    placed = list(tensors)
    copying = _Copying(file, tick, journal, with_crc32, block_bytes)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="copy") as pool:
        largest_first = sorted(placed, key=lambda one: -one.lazy.nbytes)
        running = {one.lazy.name: pool.submit(copying.copy, one) for one in largest_first}
        _wait(list(running.values()), copying.stop)
    return {one.lazy.name: running[one.lazy.name].result() for one in placed}


class _Copying:
    """What the threads share."""

    def __init__(self, file: NewFile, tick: Tick, journal: Journal | None, with_crc32: bool, block_bytes: int) -> None:
        self._file, self._tick, self._journal = file, tick, journal
        self._with_crc32, self._block_bytes = with_crc32, block_bytes
        self._lock = threading.Lock()
        self._stopped = False

    def copy(self, placed: Placed) -> Sums:
        """One tensor, or nothing when the file has it."""
        lazy, at = placed
        if self._journal is None:
            return self._write(lazy, at)
        known = self._journal.find(lazy.name, at, lazy.nbytes)
        if known is not None and self._file.sha256(at, lazy.nbytes, self._told) == known.sha256:
            self._journal.keep(lazy.name, lazy.nbytes)
            return known
        sums = self._write(lazy, at)
        self._journal.add(lazy.name, at, lazy.nbytes, sums)
        return sums

    def stop(self) -> None:
        """No thread begins another block."""
        self._stopped = True

    def _write(self, lazy: Lazy, at: int) -> Sums:
        sha256, crc32, copied = hashlib.sha256(), 0, 0
        for block in lazy.blocks(self._block_bytes):
            _check_dtype(lazy, block)
            content = raw(block)
            self._file.write_at(at + copied, content)
            sha256.update(content)
            crc32 = zlib_ng.crc32(content, crc32) if self._with_crc32 else 0
            copied += block.nbytes
            self._told(block.nbytes)
        if copied != lazy.nbytes:
            raise _not_as_promised(lazy, f"{copied} bytes instead of {lazy.nbytes}")
        return Sums(sha256.hexdigest(), crc32)

    def _told(self, count: int) -> None:
        with self._lock:
            if self._stopped:
                raise CancelledError
            self._tick(count)


def _wait(running: list[Future[Sums]], stop: Callable[[], None]) -> None:
    """Until all are through; the first that fails stops the others, and its error is raised."""
    try:
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    except BaseException:
        stop()
        for future in running:
            future.cancel()
        raise


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
