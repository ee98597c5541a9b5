"""What a data source is: one file in this package with a class derived from `Source` and `open_source(path)`.

A source is read twice in file order: `scan` learns what is needed to name and to split the corpus, `documents`
yields the text. The trade-off: reading twice costs disk bandwidth and saves holding the corpus in memory. Not for
sources that cannot be read twice, such as a pipe.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import InvalidDataError, InvalidInputError
from regraft_dataprep.document import Document

FIELD = "dataset.uri"


@dataclass(frozen=True, slots=True)
class Scan:
    """A corpus in columns; position i of each is the i-th document that `documents` yields."""

    sha256: str
    """Of the raw bytes."""
    bytes: int
    timestamps: npt.NDArray[np.datetime64]
    """datetime64[s]."""
    ids: npt.NDArray[Any]
    """Bytes strings (dtype S)."""
    has_text: npt.NDArray[np.bool_]
    """False where nothing is left after cleaning."""
    stray_lines: int = 0
    """Lines with text outside of any story, which are ignored."""

    @property
    def stories(self) -> int:
        return len(self.ids)


class Source(ABC):
    """A corpus in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._check_readable()
        self._fingerprint = self._stat()

    @abstractmethod
    def scan(self) -> Scan:
        """One pass over the raw bytes. Raises InvalidDataError when the structure is not the source's."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents in file order, those without text too, with memory for a few of them."""

    def check_unchanged(self) -> None:
        """Raises InvalidDataError when the file was changed since this object was made."""
        if self._stat() != self._fingerprint:
            raise InvalidDataError(
                "the corpus was changed while it was read",
                field=FIELD,
                value=str(self.path),
                remedy="Prepare it again once nobody writes to it.",
                reason="corpus_changed",
            )

    def _stat(self) -> tuple[int, int, int]:
        status = self.path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _check_readable(self) -> None:
        if not self.path.is_file():
            raise InvalidInputError(
                "there is no such file",
                field=FIELD,
                value=str(self.path),
                remedy="Name the corpus file by a path or file:/// URI that the dataprep worker can see.",
                reason="corpus_not_found",
            )
        if not os.access(self.path, os.R_OK):
            raise InvalidInputError(
                "this file may not be read",
                field=FIELD,
                value=str(self.path),
                remedy="Give the dataprep worker's user the right to read it.",
                reason="corpus_not_readable",
            )


def empty_corpus(path: Path) -> InvalidDataError:
    """The error of a corpus without a single document."""
    return InvalidDataError(
        "the corpus has no document with text in it",
        field=FIELD,
        value=str(path),
        remedy="Name a file with at least two documents.",
        reason="corpus_empty",
    )
