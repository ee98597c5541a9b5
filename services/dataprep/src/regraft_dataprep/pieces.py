"""A part of the corpus, cleaned and tokenised: what the first half of a preparation leaves in the work folder.

Files of a piece, raw and little-endian, so that any stretch of them can be read:

    ids.bin         token ids (uint16 up to 65,536 tokens in the vocabulary, else uint32), documents in order,
                    each closed by EOS unless it `continues`
    documents.bin   one `DOCUMENT` record each, dropped ones too (theirs have no tokens)
    spans.bin       uint64: hashes of sampled spans of 13 tokens, for the overlap between the splits
    signatures.bin  uint32 (documents, 128): MinHash of each document's token triples, when near duplicates matter
    sizes.bin       uint32 (documents, k): characters after each of the cleaning steps that change texts, but the last
                    of them; 0 where a step did not see the document; only when there are several such steps
    names.json      the documents' own ids, when they have any: lists of JSON, a line for each batch
    facts.json      counts

The trade-off: half a byte of disk per character of text, and nothing that had to be read twice. Read and not mapped:
pages of a mapped file count as memory of the process for as long as it is open, which is the whole corpus in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from regraft.errors import InvalidDataError

NO_DATE = np.iinfo(np.int64).min

DOCUMENT = np.dtype(
    [
        ("tokens", "<u4"),  # with EOS
        ("read", "<u4"),  # characters, as the source gave them
        ("characters", "<u4"),  # after the last step that it reached
        ("bytes", "<u4"),  # of these, in UTF-8
        ("spans", "<u4"),
        ("timestamp", "<i8"),  # seconds since 1970, or NO_DATE
        ("key", "<u8"),  # hash of its id, of its text where it has none
        ("digest", "<u8", (2,)),  # of the text that `drop_duplicates` compares
        ("dropped", "u1"),  # number of the step that dropped it, from 1; 0: none
        ("continues", "?"),  # the next document is the rest of this one
    ]
)
SIGNATURE = 128
"""Numbers in a MinHash signature."""

Documents = npt.NDArray[np.void]
"""Shape (documents,), dtype DOCUMENT."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file, of which a slice is read when it is asked for; shape (rows, *those of one)."""

    path: Path
    dtype: np.dtype[Any]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        """The rows of a slice without a step; of shape (0,) when there are none."""
        first, last, step = part.indices(self.rows)
        assert step == 1
        offset = first * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count=max(0, last - first), offset=offset)


class Piece(NamedTuple):
    """A piece to read from. Arrays in memory will do as well."""

    ids: Stored | npt.NDArray[Any]
    documents: Stored | Documents
    spans: Stored | npt.NDArray[np.uint64]
    signatures: Stored | npt.NDArray[np.uint32] | None
    """Shape (documents, 128)."""
    facts: dict[str, Any]
    sizes: Stored | npt.NDArray[np.uint32] | None = None
    """Shape (documents, k)."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest type for ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def open_piece(folder: Path, *, vocab_size: int) -> Piece:
    """A piece that was written whole.

    Raises:
        InvalidDataError: a file has not the size that the counts say.
    """
    facts = orjson.loads((folder / "facts.json").read_bytes())
    signed = (folder / "signatures.bin").is_file()
    signature = np.dtype(("<u4", (SIGNATURE,)))
    sizes = np.dtype(("<u4", (facts.get("sizes", 0),)))
    return Piece(
        ids=_stored(folder / "ids.bin", token_dtype(vocab_size), facts["tokens"]),
        documents=_stored(folder / "documents.bin", DOCUMENT, facts["rows"]),
        spans=_stored(folder / "spans.bin", np.dtype("<u8"), facts["spans"]),
        signatures=_stored(folder / "signatures.bin", signature, facts["rows"]) if signed else None,
        facts=facts,
        sizes=_stored(folder / "sizes.bin", sizes, facts["rows"]) if facts.get("sizes") else None,
    )


def names(folder: Path, *, count: int) -> Iterator[str]:
    """The documents' own ids, one after the other; empty strings where there are none."""
    path = folder / "names.json"
    if not path.is_file():
        yield from repeat("", count)
        return
    with path.open("rb") as lines:
        for line in lines:
            yield from orjson.loads(line)


def _stored(path: Path, dtype: np.dtype[Any], count: int) -> Stored:
    if path.stat().st_size != count * dtype.itemsize:
        raise InvalidDataError(
            f"a file of the work folder has {path.stat().st_size} bytes, not {count * dtype.itemsize}",
            value=str(path),
            remedy="Delete the folder that it lies in; the work is done again.",
            reason="corrupt_artifact",
        )
    return Stored(path, dtype, count)
