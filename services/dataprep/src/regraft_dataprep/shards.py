"""One HDF5 file of a split: its windows cut from the stream, written, and read back before anybody else does.

Blocks of windows are cut and compressed by several threads, each a block, while the caller's reads ids and writes.

The trade-off: reading back costs a tenth of the time, and a full disk or a flipped bit shows here, with the file's
name, and not in the middle of a training run.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft.hdf5 import COUNT, validate_shard
from regraft.hdf5_chunks import append_deflated, create_dataset, deflated, windows_per_chunk
from regraft_dataprep.stream import SplitStream
from regraft_dataprep.windows import Block, Evenly, Listed, Windows, boundaries, cut

_BLOCK_BYTES = 4 * 2**20
_MAX_THREADS = 8  # the one that reads and writes has no use for more
_LEFT_FREE = 2 * 2**20  # for HDF5's own tables, which it writes last, and dies of when it cannot


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOptions:
    """What the files of a dataset have in common."""

    max_sequence_length: int
    eos_id: int
    vocab_size: int
    boundaries: bool

    @property
    def rows(self) -> int:
        """Of a window."""
        return 5 if self.boundaries else 3


def write_shard(
    path: Path,
    *,
    stream: SplitStream,
    plan: Evenly | Listed,
    part: tuple[int, int],
    options: ShardOptions,
    threads: int | None,
    tick: Callable[[int], None],
) -> int:
    """Write windows `part[0]` to `part[1]` (excluded) of the plan into a new file; the number of labels that count.

    The bytes do not depend on the number of `threads` (None: the cores). `tick` is told now and then how many windows
    are written.

    Raises:
        InvalidDataError: the file does not hold what was written.
        OSError: ENOSPC, no space is left.
    """
    length = options.max_sequence_length
    per_chunk = windows_per_chunk(length, rows=options.rows)
    step = max(1, _BLOCK_BYTES // (4 * options.rows * length * per_chunk)) * per_chunk

    def stretches() -> Iterator[_Stretch]:
        for first in range(*part, step):
            windows = plan.part(first, min(first + step, part[1]))
            yield _Stretch(windows, *stream.read(*windows.span))

    labels = 0
    with h5py.File(path, "w-") as file:
        data = create_dataset(file, max_sequence_length=length, rows=options.rows, per_chunk=per_chunk)
        for block in _packed(stretches(), options, per_chunk=per_chunk, threads=threads):
            check_space(path, sum(map(len, block.chunks)))
            append_deflated(data, block.chunks, windows=block.windows)
            labels += block.labels
            tick(data.shape[0])
        file.attrs[COUNT] = data.shape[0]
    _verify(path, labels, options)
    return labels


class _Stretch(NamedTuple):
    """Windows that follow one another, and what they are cut from."""

    windows: Windows
    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    """Of documents."""


class _Packed(NamedTuple):
    """The same as it goes into the file."""

    windows: int
    labels: int
    chunks: list[bytes]


def _packed(
    stretches: Iterable[_Stretch], options: ShardOptions, *, per_chunk: int, threads: int | None
) -> Iterator[_Packed]:
    """All of them, in order; memory is that of a few, however slow the caller is."""
    count = min(threads or len(os.sched_getaffinity(0)), _MAX_THREADS)
    if count == 1:
        yield from (_pack(stretch, options, per_chunk=per_chunk) for stretch in stretches)
        return
    waiting: deque[Future[_Packed]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="hdf5") as pool:
        for stretch in stretches:
            waiting.append(pool.submit(_pack, stretch, options, per_chunk=per_chunk))
            if len(waiting) > count:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def _pack(stretch: _Stretch, options: ShardOptions, *, per_chunk: int) -> _Packed:
    windows = stretch.windows
    chunks = list(deflated(_block(stretch, options), per_chunk=per_chunk, threads=1))
    return _Packed(len(windows.starts), int(windows.lengths.sum()), chunks)


def _block(stretch: _Stretch, options: ShardOptions) -> Block:
    windows, length = stretch.windows, options.max_sequence_length
    block = cut(stretch.tokens, windows, max_sequence_length=length, eos_id=options.eos_id)
    if not options.boundaries:
        return block
    return np.concatenate([block, boundaries(stretch.starts, windows, max_sequence_length=length)], axis=1)


def check_space(path: Path, size: int) -> None:
    """HDF5 ends the process when the disk fills up under it: say so before."""
    status = os.statvfs(path.parent)
    if status.f_bavail * status.f_frsize < size + _LEFT_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _verify(path: Path, labels: int, options: ShardOptions) -> None:
    found = validate_shard(
        path, max_sequence_length=options.max_sequence_length, vocab_size=options.vocab_size, rows=options.rows
    )
    if found != labels:
        raise InvalidDataError(
            f"the file holds {found} labels that count and was given {labels}",
            value=str(path),
            remedy="Check the disk and prepare the dataset again.",
            reason="verification_failed",
        )
