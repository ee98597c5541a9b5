"""The bytes of a shard's HDF5 chunks: byte shuffle and deflate, made and undone outside of HDF5, on several cores.

HDF5 runs its own filters one chunk after the other under a lock. Here small groups of windows are filtered in a few
threads and go to the file as they are (`write_direct_chunk`); any HDF5 reader undoes the two standard filters with no
plug-in. zlib-ng deflates: level 1 takes a fourteenth of the time of HDF5's gzip level 4 for files of 14.5 % of the raw
bytes, against 13.6 % (English GPT-2 ids, windows of 2,048). ISA-L would be a quarter faster and 2 % smaller, but in two
threads now and then packs the same bytes in another way (1 in 500 of half a million), and equal inputs are to give
equal files.

A chunk holds one window, as other tools write it, or several (`windows_per_chunk`): chunks of about 100 kB are made
and read back in half the time, and a trainer that asks for one window inflates 100 kB for it, 0.2 ms.

The trade-off: deflate level 1 only. And not while another thread computes in Python: each chunk would then wait for
the interpreter's lock, 3 ms instead of 0.03, which is why nothing here goes on in the background between two calls.
(Threads that only call numpy and this module get on well with each other.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import h5py
import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

DATASET = "data"
ROWS = 3

Windows = npt.NDArray[np.int32]
"""Shape (k, rows, M); 3 rows, or 5 with document boundaries."""

_LEVEL = 1
_FILTERS = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
_ITEM = 4  # bytes of an int32
_CHUNK_BYTES = 100_000  # aimed at by `windows_per_chunk`
_GROUP_BYTES = 2**20  # filtered at a time: fits a core's cache, and is enough work to hand to a thread
_MAX_THREADS = 8  # the one thread that writes cannot take more

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def windows_per_chunk(max_sequence_length: int, *, rows: int = ROWS) -> int:
    """As many windows as make a chunk of at most 100 kB, a power of two; at least one."""
    fit = max(1, _CHUNK_BYTES // (_ITEM * rows * max_sequence_length))
    return 1 << fit.bit_length() - 1


def create_dataset(file: h5py.File, *, max_sequence_length: int, rows: int = ROWS, per_chunk: int = 1) -> h5py.Dataset:
    """The empty dataset of a new file, to be grown along its first axis; `per_chunk` windows in each chunk."""
    shape = (rows, max_sequence_length)
    return file.create_dataset(
        DATASET,
        shape=(0, *shape),
        maxshape=(None, *shape),
        chunks=(per_chunk, *shape),
        dtype="<i4",
        shuffle=True,
        compression="gzip",
        compression_opts=_LEVEL,
    )


def append(data: h5py.Dataset, block: Windows, *, threads: int | None = None) -> None:
    """Grow `data` by a block of windows. The bytes do not depend on the number of threads (None: the cores).

    All blocks but the last one must fill their chunks.
    """
    # All first: writing would hold the threads up.
    chunks = list(deflated(block, per_chunk=data.chunks[0], threads=threads))
    append_deflated(data, chunks, windows=len(block))


def append_deflated(data: h5py.Dataset, chunks: Sequence[bytes], *, windows: int) -> None:
    """Grow `data` by a block of windows whose chunks are made."""
    start, per_chunk = data.shape[0], data.chunks[0]
    assert start % per_chunk == 0, "an earlier block has not filled its last chunk"
    data.resize(start + windows, axis=0)
    for number, chunk in enumerate(chunks):
        data.id.write_direct_chunk((start + number * per_chunk, 0, 0), chunk)


def deflated(block: Windows, *, per_chunk: int = 1, threads: int | None = None) -> Iterator[bytes]:
    """The bytes of each chunk of a block, in order; a last chunk that is not full is filled with zeros."""
    missing = -len(block) % per_chunk
    if missing:
        block = np.concatenate([block, np.zeros((missing, *block.shape[1:]), dtype=block.dtype)])
    by_chunk = block.reshape(len(block) // per_chunk, -1)
    step = _per_group(by_chunk.shape[1])
    groups = [by_chunk[start : start + step] for start in range(0, len(by_chunk), step)]
    for chunks in _spread(_deflate, groups, threads=threads):
        yield from chunks


def is_direct(data: h5py.Dataset) -> bool:
    """True when `over_windows` can read it: int32 in whole windows, filtered as here."""
    plist = data.id.get_create_plist()
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if data.chunks is None or data.chunks[1:] != data.shape[1:] or data.dtype != np.dtype("<i4"):
        return False
    return bool(filters == _FILTERS and data.id.get_num_chunks() == -(-data.shape[0] // data.chunks[0]))


def over_windows(
    work: Callable[[Windows], _Result], data: h5py.Dataset, part: slice, *, threads: int | None = None
) -> Iterator[_Result]:
    """`work` of small blocks of the windows `part` of a dataset that `is_direct`, in order, in several threads.

    Raises:
        OSError: a chunk is damaged.
    """
    per_chunk = data.chunks[0]
    first, last, _ = part.indices(data.shape[0])
    step = _per_group(int(np.prod(data.chunks))) * per_chunk
    starts = range(first - first % per_chunk, last, step)
    groups = [(_raw(data, at, min(at + step, last)), slice(max(first - at, 0), last - at)) for at in starts]
    return _spread(lambda group: work(_inflated(group[0], data.chunks)[group[1]]), groups, threads=threads)


def _per_group(chunk_values: int) -> int:
    return max(1, _GROUP_BYTES // (_ITEM * chunk_values))


def _spread(work: Callable[[_Item], _Result], items: Sequence[_Item], *, threads: int | None) -> Iterator[_Result]:
    """`work` of every item, in order. One item alone is not worth a thread."""
    count = min(threads or _cores(), len(items))
    if count <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="hdf5") as pool:
        yield from pool.map(work, items)


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_THREADS)


def _deflate(group: npt.NDArray[np.int32]) -> list[bytes]:
    """Chunks of shape (chunks, values)."""
    # Shuffle: the first bytes of all values, then the second ones, and so on. Shifts are twice as fast as a transposed
    # copy, and do not ask for the machine's byte order. The upper bytes of ids are zero: they need no pass.
    planes = np.zeros((len(group), _ITEM, group.shape[1]), dtype=np.uint8)
    used = int(np.bitwise_or.reduce(group, axis=None)) & 0xFFFFFFFF
    for byte in range(_ITEM):
        if used >> 8 * byte:
            planes[:, byte] = group >> 8 * byte if byte else group
    return [zlib_ng.compress(chunk, _LEVEL) for chunk in planes.reshape(len(group), -1)]


def _raw(data: h5py.Dataset, first: int, last: int) -> list[bytes]:
    """Chunks as they lie in the file."""
    found: list[tuple[int, bytes]] = [
        data.id.read_direct_chunk((number, 0, 0)) for number in range(first, last, data.chunks[0])
    ]
    if any(mask for mask, _ in found):
        raise OSError("a chunk was stored without its filters")
    return [chunk for _, chunk in found]


def _inflated(chunks: Sequence[bytes], shape: tuple[int, int, int]) -> Windows:
    """Windows of all chunks of shape (per_chunk, rows, M)."""
    block = np.empty((len(chunks) * shape[0], *shape[1:]), dtype="<i4")
    for chunk, packed in zip(block.reshape(len(chunks), -1), chunks, strict=True):
        planes = np.frombuffer(_plain(packed, size=chunk.nbytes), dtype=np.uint8).reshape(_ITEM, -1)
        if planes[2:].any():
            chunk.view(np.uint8).reshape(-1, _ITEM)[:] = planes.T
        else:  # ids below 65,536: two bytes of four, in half the time
            np.left_shift(planes[1], 8, out=chunk, dtype=np.int32, casting="unsafe")
            np.bitwise_or(chunk, planes[0], out=chunk)
    return block


def _plain(chunk: bytes, *, size: int) -> bytes:
    try:
        content = zlib_ng.decompress(chunk, bufsize=size)  # checks the Adler-32 at its end
    except zlib_ng.error as error:  # type: ignore[misc]  # the package has it typed as no class
        raise OSError(f"a chunk cannot be inflated: {error}") from error
    if len(content) != size:
        raise OSError(f"a chunk has {len(content)} bytes, not {size}")
    return content
