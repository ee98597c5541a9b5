"""One HDF5 file of a split: its windows cut from the stream, written, and read back before anybody else does.

The trade-off: reading back costs a tenth of the time, and a full disk or a flipped bit shows here, with the file's
name, and not in the middle of a training run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from regraft.errors import InvalidDataError
from regraft.hdf5 import COUNT, validate_shard
from regraft.hdf5_chunks import append, create_dataset, windows_per_chunk
from regraft_dataprep.stream import SplitStream
from regraft_dataprep.windows import Block, Evenly, Listed, Windows, boundaries, cut

_BLOCK_BYTES = 16 * 2**20
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

    `tick` is told the number of windows written, now and then.

    Raises:
        InvalidDataError: the file does not hold what was written.
        OSError: ENOSPC, no space is left.
    """
    length = options.max_sequence_length
    per_chunk = windows_per_chunk(length, rows=options.rows)
    step = max(1, _BLOCK_BYTES // (4 * options.rows * length * per_chunk)) * per_chunk
    labels = 0
    with h5py.File(path, "w-") as file:
        data = create_dataset(file, max_sequence_length=length, rows=options.rows, per_chunk=per_chunk)
        for first in range(*part, step):
            windows = plan.part(first, min(first + step, part[1]))
            block = _block(stream, windows, options)
            labels += int(windows.lengths.sum())
            _check_space(path, block.nbytes)
            append(data, block, threads=threads)
            tick(data.shape[0])
        file.attrs[COUNT] = data.shape[0]
    _verify(path, labels, options)
    return labels


def _block(stream: SplitStream, windows: Windows, options: ShardOptions) -> Block:
    length = options.max_sequence_length
    tokens, starts = stream.read(*windows.span)
    block = cut(tokens, windows, max_sequence_length=length, eos_id=options.eos_id)
    if not options.boundaries:
        return block
    return np.concatenate([block, boundaries(starts, windows, max_sequence_length=length)], axis=1)


def _check_space(path: Path, size: int) -> None:
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
