"""Near duplicates among all documents: MinHash signatures, banded, then compared.

Documents that agree in any one band of their signatures are candidates (locality-sensitive hashing, Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, 3.4); a candidate is compared, signature by signature, with the leaders of its
group: the earlier documents that were like none before them. So near duplicates are not chained: each is like its
leader. Bands are hashed in one pass over the signatures, to a file without a name, and sorted one after the other.

The trade-off: in a group with more than 64 leaders only the first of these are compared. `find_leaders` needs some 60
bytes for every document, and 20 for every band that one shares with another: 0.65 kB for a document that shares all 32
of a threshold of 0.8. `find_alike` needs some 30 bytes for every document. The file takes 8 bytes for each document and
band.
"""

from __future__ import annotations

import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError
from regraft_dataprep.pieces import SIGNATURE

_CHUNK = 16_384  # signatures read at a time: 8 MiB
_LEADERS = 64
_SORTED = 1_000_000  # documents sorted at a time, at 50 bytes each
_MAX_OPEN_FILES = 128
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MOST = 2**32 - 1
_HALF, _LOWER = np.uint64(32), np.uint64(_MOST)
_NONE = -1

Bands = Callable[[], Iterator[npt.NDArray[np.uint64]]]
"""For each band a hash of its numbers, of every signature; shape (documents,)."""

Leaders = npt.NDArray[np.int64]
"""Shape (documents,): the earlier document that each one is like, or -1."""


class Signatures:
    """The signatures of a whole corpus, in the files of its pieces."""

    def __init__(self, paths: Sequence[Path], rows: Sequence[int]) -> None:
        self._paths = paths
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        self._open: dict[int, BinaryIO] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @contextmanager
    def bands(self, width: int) -> Iterator[Bands]:
        """Bands of `width` numbers, to be gone over as often as need be."""
        count = SIGNATURE // width
        with TemporaryFile(dir=self._paths[0].parent) as file:
            for at, block in self._blocks():
                for band in range(count):
                    file.seek(8 * (band * len(self) + at))
                    file.write(_hashed(block[:, band * width : (band + 1) * width]).data)
            file.flush()
            yield lambda: (_band(file, band, documents=len(self)) for band in range(count))

    def _blocks(self) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
        """All signatures, and the number of the first one in each block."""
        for path, start, end in zip(self._paths, self._starts, self._starts[1:], strict=False):
            for at in range(int(start), int(end), _CHUNK):
                rows = min(_CHUNK, int(end) - at)
                offset = 4 * SIGNATURE * (at - int(start))
                block = np.fromfile(path, dtype="<u4", count=rows * SIGNATURE, offset=offset)
                yield at, block.reshape(rows, SIGNATURE)

    def one(self, document: int) -> npt.NDArray[np.uint32]:
        """The signature of a document."""
        piece = int(np.searchsorted(self._starts, document, side="right")) - 1
        if piece not in self._open:
            if len(self._open) >= _MAX_OPEN_FILES:
                self.close()
            self._open[piece] = self._paths[piece].open("rb")
        offset = 4 * SIGNATURE * (document - int(self._starts[piece]))
        return np.frombuffer(os.pread(self._open[piece].fileno(), 4 * SIGNATURE, offset), dtype="<u4")

    def close(self) -> None:
        """Close all files. Reading again opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __del__(self) -> None:
        self.close()


def find_leaders(signatures: Signatures, among: npt.NDArray[np.bool_], *, threshold: float) -> Leaders:
    """For each document of `among` the first earlier leader with at least `threshold` of equal numbers."""
    shared, groups = _candidates(signatures, among, bands=_bands(threshold))
    leaders = np.full(len(signatures), -1, dtype=np.int64)
    known = _Known(groups)
    documents = (shared >> _HALF).astype(np.uint32)
    starts = np.flatnonzero(np.append(True, documents[1:] != documents[:-1])) if len(documents) else documents
    with closing(signatures):
        for start, end in zip(starts, np.append(starts, len(documents))[1:], strict=True):
            document, own = int(documents[start]), (shared[start:end] & _LOWER).tolist()
            leader = _leader(document, known.of(own), signatures.one, threshold)
            if leader is not None:
                leaders[document] = leader
            else:
                known.add(document, own)
    return leaders


class _Known:
    """The leaders of every group. Most have one: a list for each would take ten times as much."""

    def __init__(self, groups: int) -> None:
        self._first = array("q", [_NONE]) * groups
        self._others: defaultdict[int, list[int]] = defaultdict(list)

    def of(self, groups: list[int]) -> list[int]:
        """Those of these groups, in order."""
        first, others = self._first, self._others
        found = {first[group] for group in groups}
        found.discard(_NONE)
        return sorted(found.union(*(others[group] for group in groups if group in others)))

    def add(self, document: int, groups: list[int]) -> None:
        """A leader, unless there are many."""
        for group in groups:
            if self._first[group] == _NONE:
                self._first[group] = document
            elif len(self._others[group]) < _LEADERS - 1:
                self._others[group].append(document)


def find_alike(
    signatures: Signatures, seekers: npt.NDArray[np.bool_], targets: npt.NDArray[np.bool_], *, threshold: float
) -> npt.NDArray[np.bool_]:
    """Which of `seekers` are like one of `targets`, or like one of those that are: until there are no more of them.

    One band at a time, so that memory does not depend on how many documents are alike.
    """
    found, targets = np.zeros_like(seekers), targets.copy()
    with closing(signatures), signatures.bands(SIGNATURE // _bands(threshold)) as bands:
        while targets.any():
            before = found.copy()
            for band in bands():
                for group in _mixed_groups(band, seekers & ~found, targets):
                    asking, known = group[seekers[group]], group[targets[group]][:_LEADERS]
                    found[asking[_like_any(signatures, asking, known, threshold)]] = True
                del band  # or it is there still while the next one is made
            targets = found & ~before
    return found


def _mixed_groups(
    band: npt.NDArray[np.uint64], seekers: npt.NDArray[np.bool_], targets: npt.NDArray[np.bool_]
) -> Iterator[npt.NDArray[np.int64]]:
    """Documents that share a band, where there is one of each kind among them; those of neither are left out."""
    wanted = seekers | targets
    shares = 1 + len(band) // _SORTED
    for share in range(shares):
        chosen = wanted if shares == 1 else wanted & (band % np.uint64(shares) == share)
        yield from _mixed(band, np.flatnonzero(chosen), seekers, targets)


def _mixed(
    band: npt.NDArray[np.uint64],
    wanted: npt.NDArray[np.int64],
    seekers: npt.NDArray[np.bool_],
    targets: npt.NDArray[np.bool_],
) -> Iterator[npt.NDArray[np.int64]]:
    """Those among `wanted`."""
    hashes = band[wanted]
    order = np.argsort(hashes, kind="stable")
    hashes, documents = hashes[order], wanted[order]
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])) if len(hashes) else order
    ends = np.append(starts[1:], len(documents))
    kinds = (np.add.reduceat(kind[documents], starts, dtype=np.int64) for kind in (seekers, targets))
    mixed = np.logical_and.reduce([count > 0 for count in kinds]) if len(starts) else starts
    for start, end in zip(starts[mixed], ends[mixed], strict=True):
        yield documents[start:end]


def _like_any(
    signatures: Signatures, seeking: npt.NDArray[np.int64], sought: npt.NDArray[np.int64], threshold: float
) -> npt.NDArray[np.bool_]:
    wanted = np.stack([signatures.one(document) for document in sought.tolist()])
    return np.array(
        [
            bool((np.count_nonzero(wanted == signatures.one(document), axis=1) >= threshold * SIGNATURE).any())
            for document in seeking.tolist()
        ]
    )


def _leader(
    document: int, candidates: list[int], signature: Callable[[int], npt.NDArray[np.uint32]], threshold: float
) -> int | None:
    if not candidates:
        return None
    own = signature(document)
    for candidate in candidates:
        if np.count_nonzero(own == signature(candidate)) >= threshold * SIGNATURE:
            return candidate
    return None


def _candidates(
    signatures: Signatures, among: npt.NDArray[np.bool_], *, bands: int
) -> tuple[npt.NDArray[np.uint64], int]:
    """Documents that share a band with another one, in order, with the groups they are in; and how many groups.

    A document is the upper half of a number and a group the lower one, so that they are sorted where they are.
    """
    wanted = np.flatnonzero(among)
    found, groups = [], 0
    _check_packable(len(signatures))
    with signatures.bands(SIGNATURE // bands) as all_bands:
        for band in all_bands():
            hashes = band[wanted]
            order = np.argsort(hashes, kind="stable")
            ranked = hashes[order]
            new = np.append(True, ranked[1:] != ranked[:-1])[: len(ranked)]
            shared = ~new | np.append(~new[1:], False)[: len(ranked)]
            numbers = groups - 1 + np.cumsum(new[shared])
            found.append(wanted[order[shared]].astype(np.uint64) << _HALF | numbers.astype(np.uint64))
            groups += int(new[shared].sum())
    _check_packable(groups)
    pairs = np.concatenate(found)
    del found
    pairs.sort()
    return pairs, groups


def _check_packable(count: int) -> None:
    """Half a number each is what documents and groups have; beyond it they would be taken for others."""
    if count > _MOST:
        raise InvalidDataError(
            f"at most {_MOST} documents, and groups of them, can be compared with one another",
            field="dataset.cleaning",
            value=count,
            remedy="Drop near duplicates in parts of the corpus, or from a higher threshold on.",
            reason="too_many_documents",
        )


def _band(file: IO[bytes], number: int, *, documents: int) -> npt.NDArray[np.uint64]:
    file.seek(8 * number * documents)
    return np.frombuffer(file.read(8 * documents), dtype=np.uint64)


def _hashed(columns: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    hashes = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        hashes = (hashes ^ column) * _STEP
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _bands(threshold: float) -> int:
    """As few bands as find a pair at the threshold with 99 %: 1 - (1 - t^rows)^bands, rows = 128 / bands."""
    for bands in (4, 8, 16, 32, 64):
        if 1 - (1 - threshold ** (SIGNATURE // bands)) ** bands >= 0.99:
            return bands
    return SIGNATURE
