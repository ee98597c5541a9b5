"""A part of the corpus, cleaned and tokenised: what the first half of a preparation leaves in the work folder.

Files of a piece, raw and little-endian, so that any part of them can be mapped into memory:

    ids.bin         token ids (uint16 up to 65,536 tokens in the vocabulary, else uint32), documents in order,
                    each closed by EOS unless it `continues`
    documents.bin   one `DOCUMENT` record each, dropped ones too (theirs have no tokens)
    spans.bin       uint64: hashes of sampled spans of 13 tokens, for the overlap between the splits
    signatures.bin  uint32 (documents, 128): MinHash of each document's token triples, when near duplicates matter
    names.json      the documents' own ids, when they have any
    facts.json      counts

The trade-off: half a byte of disk per character of text, and nothing that had to be read twice.
"""

from __future__ import annotations

import mmap
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


class Piece(NamedTuple):
    """A piece to read from; arrays are mapped, not loaded."""

    ids: npt.NDArray[Any]
    documents: Documents
    spans: npt.NDArray[np.uint64]
    signatures: npt.NDArray[np.uint32] | None
    facts: dict[str, Any]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest type for ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def open_piece(folder: Path, *, vocab_size: int) -> Piece:
    """A piece that was written whole.

    Raises:
        InvalidDataError: a file has not the size that the counts say.
    """
    facts = orjson.loads((folder / "facts.json").read_bytes())
    documents = _mapped(folder / "documents.bin", DOCUMENT, facts["rows"])
    signed = (folder / "signatures.bin").is_file()
    signatures = _mapped(folder / "signatures.bin", np.dtype("<u4"), facts["rows"] * SIGNATURE) if signed else None
    return Piece(
        ids=_mapped(folder / "ids.bin", token_dtype(vocab_size), facts["tokens"]),
        documents=documents,
        spans=_mapped(folder / "spans.bin", np.dtype("<u8"), facts["spans"]),
        signatures=None if signatures is None else signatures.reshape(-1, SIGNATURE),
        facts=facts,
    )


def column(piece: Piece, name: str) -> npt.NDArray[Any]:
    """One field of a piece's documents, copied; the pages of all fields are given back to the kernel.

    They would stay and count as this process's memory: 54 bytes for each document of the corpus.
    """
    copied = np.array(piece.documents[name])
    if isinstance(piece.documents, np.memmap):
        piece.documents._mmap.madvise(mmap.MADV_DONTNEED)
    return copied


def names(folder: Path, *, count: int) -> list[str]:
    """The documents' own ids; empty strings where there are none."""
    path = folder / "names.json"
    return orjson.loads(path.read_bytes()) if path.is_file() else [""] * count


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    if path.stat().st_size != count * dtype.itemsize:
        raise InvalidDataError(
            f"a file of the work folder has {path.stat().st_size} bytes, not {count * dtype.itemsize}",
            value=str(path),
            remedy="Delete the folder that it lies in; the work is done again.",
            reason="corrupt_artifact",
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype)
